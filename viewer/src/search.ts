/** The dialog that looks for messages in the open conversation. */
import { h, visible, when } from "./dom";
import { type Data, messageOf } from "./host";
import { list, texts } from "./messages";
import { dialog } from "./panels";

/** `look` asks the server; `chosen` gets the id of the message that was picked, once the dialog is closed. */
export function openSearch(agentName: string, look: (query: string) => Promise<Data>, chosen: (id: string) => void): void {
  const input = h("input", { type: "search", "aria-label": "Search in this conversation", placeholder: "Search in this conversation", autocomplete: "off" });
  let shown = h("div");
  const element = dialog("Search", input, shown);
  const hit = (row: Data) => {
    const label = h("span", {}, h("b", {}, texts(row, "kind") === "user" ? "User" : visible(agentName)), ` ${when(texts(row, "at"))}`);
    const go = () => {
      element.close();
      chosen(texts(row, "message_id"));
    };
    return h("button", { type: "button", class: "choice-row", click: go }, label, h("span", { class: "snippet" }, visible(texts(row, "text"))));
  };
  const start = async () => {
    const query = input.value.trim();
    // Every search has its own place: an answer that comes after the next search was begun is not seen.
    const found = h("div", { class: "found" }, query && h("p", { class: "empty" }, "Searching…"));
    shown.replaceWith(found);
    shown = found;
    if (!query) return;
    try {
      const data = await look(query);
      const rows = list(data, "messages").map(hit);
      found.replaceChildren(...rows, h("p", { class: "note" }, texts(data, "note") || (rows.length ? "" : "Nothing was found.")));
    } catch (error) {
      found.replaceChildren(h("p", { class: "empty" }, messageOf(error)));
    }
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) void start();
  });
  input.focus();
}
