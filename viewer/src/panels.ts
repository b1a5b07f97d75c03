/** What opens over the transcript: menus that close on a click beside them, and dialogs. All of it works by keyboard. */
import { button, h, type Child } from "./dom";

/** A list under a button. `fill` is called each time it is opened. */
export function dropdown(label: string, fill: (panel: HTMLElement, close: () => void) => void, attributes: Record<string, unknown> = {}) {
  const panel = h("div", { class: "panel", popover: "auto" });
  const opener = button(label, () => panel.togglePopover(), { "aria-haspopup": "true", "aria-expanded": "false", ...attributes });
  panel.addEventListener("toggle", (event) => {
    const open = (event as ToggleEvent).newState === "open";
    opener.setAttribute("aria-expanded", String(open));
    if (!open) {
      panel.replaceChildren();
      return;
    }
    fill(panel, () => panel.hidePopover());
    const box = opener.getBoundingClientRect();
    const width = Math.min(panel.offsetWidth, innerWidth - 16);
    panel.style.top = `${box.bottom + 6}px`;
    panel.style.left = `${Math.max(8, Math.min(box.right - width, innerWidth - width - 8))}px`;
    panel.style.maxHeight = `${innerHeight - box.bottom - 16}px`;
    panel.querySelector<HTMLElement>("input, button")?.focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (isEscape(event)) panel.hidePopover();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [...panel.querySelectorAll<HTMLElement>("input, button:not(:disabled)")];
    const at = stops.indexOf(document.activeElement as HTMLElement);
    stops[(at + step + stops.length) % stops.length]?.focus();
  });
  return { opener, panel };
}

/** In a search field, a browser would only empty the field. */
const isEscape = (event: KeyboardEvent): boolean => event.key === "Escape" && !event.isComposing;

/** Closes every menu and dialog except the one that asks for a token, which does not belong to a conversation. */
export function closeAll(): void {
  for (const panel of document.querySelectorAll<HTMLElement>(":popover-open")) panel.hidePopover();
  for (const element of document.querySelectorAll<HTMLDialogElement>("dialog:not(:has([type=password]))")) element.close();
}

export function dialog(title: string, ...content: Child[]): HTMLDialogElement {
  const element = h("dialog", { "aria-label": title }, h("h2", {}, title), ...content);
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (event) => {
    if (event.target === element) element.close();
  });
  element.addEventListener("keydown", (event) => {
    if (isEscape(event)) element.close();
  });
  document.body.append(element);
  element.showModal();
  return element;
}

/** Asks for one line; undefined when it was closed without an answer. */
export function ask(title: string, label: string, value: string, confirm: string, type = "text"): Promise<string | undefined> {
  return new Promise((resolve) => {
    const input = h("input", { type, value, "aria-label": label, placeholder: label, autocomplete: "off" });
    let answer: string | undefined;
    // No form: a sandbox may forbid to submit one.
    const finish = () => {
      answer = input.value;
      element.close();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) finish();
    });
    const buttons = h("div", { class: "row end" }, button("Cancel", () => element.close()), button(confirm, finish, { class: "btn primary" }));
    const element = dialog(title, input, buttons);
    element.addEventListener("close", () => resolve(answer));
    input.select();
  });
}
