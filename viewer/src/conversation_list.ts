/** The list of an agent's conversations, or of everybody's, to choose from. */
import { button, h, visible, when } from "./dom";
import { type Data, messageOf, type Place } from "./host";
import { list, texts } from "./messages";

/** Whose conversations are listed, and which of them is open. */
export interface Listed {
  place: Place;
  call(tool: string, args: Data): Promise<Data>;
  open(place: Place): void;
}

const PAGE = 30;

/** Writes the first page into `into`, or appends the one after the conversation `after`. */
export async function listConversations(into: HTMLElement, listed: Listed, search = "", after = ""): Promise<void> {
  const { agent, conversation } = listed.place;
  const query = { ...(agent ? { agent } : {}), ...(search ? { search } : {}), ...(after ? { after } : {}), limit: PAGE };
  const data = await listed.call("list_conversations", query);
  const rows = list(data, "conversations");
  if (!after) into.replaceChildren();
  for (const row of rows) {
    const id = texts(row, "id");
    const time = texts(row, "last_message_at") || texts(row, "created_at");
    // Only rows of a list of all agents name theirs.
    const owner = visible(texts(row, "agent_name"));
    const go = () => listed.open({ conversation: id, agent: texts(row, "agent_id") || agent });
    into.append(
      h(
        "button",
        { type: "button", class: "choice-row", "aria-current": id === conversation ? "true" : undefined, click: go },
        h("span", { class: "choice-name" }, visible(texts(row, "summary")) || "Untitled conversation"),
        h("span", { class: "sub" }, [owner, when(time), row.archived ? "archived" : ""].filter(Boolean).join(" · ")),
      ),
    );
  }
  const last = rows.at(-1);
  if (last && texts(data, "next").startsWith("More")) {
    const more = button("More", async () => {
      more.disabled = true;
      try {
        await listConversations(into, listed, search, texts(last, "id"));
        (more.nextElementSibling as HTMLElement | null)?.focus();
        more.remove();
      } catch (error) {
        more.textContent = `${messageOf(error)} Try again`;
        more.disabled = false;
      }
    });
    into.append(more);
  }
  if (!rows.length && !after) into.append(h("p", { class: "empty" }, search ? "No conversation has this in its name." : "There are no conversations yet."));
}

/** A field for a name, and the list of those that have it. */
export function conversationPicker(listed: Listed): Node[] {
  const filter = h("input", { type: "search", placeholder: "Find by name", "aria-label": "Find a conversation by name", autocomplete: "off" });
  const place = h("div");
  const load = (search = "") => {
    // Every list has its own place: an answer that comes after the next one was asked for is not seen.
    const rows = h("div", { class: "choices" }, h("p", { class: "empty" }, "Loading…"));
    place.replaceChildren(rows);
    return listConversations(rows, listed, search).catch((error) => rows.replaceChildren(h("p", { class: "empty" }, messageOf(error))));
  };
  // Not on "change": a click on a row leaves the field, and the rows would disappear under the pointer.
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) void load(filter.value.trim());
  });
  filter.addEventListener("input", () => filter.value || void load());
  void load();
  return [filter, place];
}
