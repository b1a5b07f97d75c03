/** The transcript: messages in the order of time, in groups of one speaker. Elements of unchanged groups are kept. */
import { button, dayOf, h, visible, when } from "./dom";
import { markdown } from "./markdown";
import { type Call, callText, type Message } from "./messages";

export interface TranscriptOptions {
  openLink(url: string): void;
  fork(message: Message): void;
  agentName(): string;
  isPending(call: Call): boolean;
  isRunning(): boolean;
}

interface Group {
  key: string;
  signature: string;
  side: string;
  messages: Message[];
  previous: string;
}

const AGENT_KINDS = new Set(["assistant", "reasoning", "tool", "approval"]);

export class Transcript {
  readonly element = h("div", { class: "transcript" });
  private shown = new Map<string, { signature: string; element: HTMLElement }>();

  constructor(private readonly options: TranscriptOptions) {}

  render(messages: Message[]): void {
    const kept = new Map<string, { signature: string; element: HTMLElement }>();
    let next = this.element.firstChild;
    for (const group of this.groups(messages)) {
      const known = this.shown.get(group.key);
      const element = known?.signature === group.signature ? known.element : this.group(group);
      kept.set(group.key, { signature: group.signature, element });
      if (element === next) next = next.nextSibling;
      else this.element.insertBefore(element, next);
      if (known && known.element !== element) carryOver(known.element, element);
    }
    for (const [key, { element }] of this.shown) {
      if (kept.get(key)?.element !== element) element.remove();
    }
    this.shown = kept;
  }

  find(id: string): HTMLElement | null {
    return this.element.querySelector(`[data-message="${CSS.escape(id)}"]`);
  }

  private groups(messages: Message[]): Group[] {
    const groups: Group[] = [];
    const keys = new Map<string, number>();
    let previous = "";
    for (const message of messages) {
      const side = AGENT_KINDS.has(message.kind) ? "agent" : message.kind;
      const last = groups.at(-1);
      if (side === "agent" && last?.side === "agent") {
        last.messages.push(message);
      } else {
        const base = `${message.id}:${message.kind}`;
        const count = keys.get(base) ?? 0;
        keys.set(base, count + 1);
        groups.push({ key: count ? `${base}:${count}` : base, signature: "", side, messages: [message], previous });
      }
      previous = message.at || previous;
    }
    for (const group of groups) {
      const parts = group.messages.map((message) =>
        [message.text.length, ...message.calls.map((call) => call.status === "pending" ? `${this.options.isPending(call)}${this.options.isRunning()}` : call.status)].join(),
      );
      group.signature = [this.options.agentName(), dayOf(group.previous) === dayOf(group.messages[0]!.at), ...parts].join("|");
    }
    return groups;
  }

  private group(group: Group): HTMLElement {
    const [first] = group.messages as [Message];
    const time = when(first.at, group.previous);
    if (group.side === "summary") return this.compaction(first);
    if (group.side === "user") return this.article("user", "User", first, time, [this.body(first)], first);
    if (group.side === "agent") {
      const parts = group.messages.flatMap((message) => this.parts(message));
      const last = group.messages.at(-1)!;
      return this.article("agent", this.options.agentName(), first, time, parts, last);
    }
    return this.article("other", first.kind, first, time, [fold("Message of another kind", [this.body(first)])], first);
  }

  private article(side: string, who: string, first: Message, time: string, parts: Node[], last: Message): HTMLElement {
    const name = visible(who).replaceAll("\n", " ");
    const fork = button("Fork from here", () => this.options.fork(last), { class: "quiet", title: "Open a branch that ends with this message" });
    const head = h("header", { class: "who" }, h("b", {}, name), time ? h("time", { datetime: first.at }, time) : null, h("span", { class: "sp" }), fork);
    const article = h("article", { class: `msg ${side}`, "aria-label": `${name}, ${time}` }, head, ...parts);
    article.dataset.message = first.id;
    // A call that waits is shown on its card only.
    article.hidden = parts.length === 0;
    return article;
  }

  private parts(message: Message): Node[] {
    if (message.kind === "reasoning") return [marked(fold("Reasoning", [h("p", { class: "plain" }, message.text)]), message)];
    if (message.calls.length) return message.calls.filter((call) => !this.options.isPending(call)).map((call) => marked(callFold(call, this.options.isRunning()), message));
    if (message.kind === "approval") return [marked(h("p", { class: "note" }, decisionText(message.text)), message)];
    return message.text ? [marked(this.body(message), message)] : [];
  }

  private body(message: Message): HTMLElement {
    const body = markdown(message.text, this.options.openLink);
    if (message.cut) body.append(h("p", { class: "note" }, "This message is longer than can be shown here. Its beginning is above."));
    return body;
  }

  private compaction(message: Message): HTMLElement {
    const summary = h("summary", {}, h("span", {}, `Compacted ${when(message.at)} · older messages became a summary`));
    const element = h("details", { class: "break" }, summary, markdown(message.text, this.options.openLink));
    element.dataset.message = message.id;
    return element;
  }
}

/** What is read in a group that has grown stays unfolded, and what has the focus keeps it. */
function carryOver(from: HTMLElement, to: HTMLElement): void {
  const folds = to.querySelectorAll("details");
  for (const [index, { open }] of from.querySelectorAll("details").entries()) if (folds[index]) folds[index].open = open;
  const stops = "a, button, summary, pre, .wide";
  const at = [...from.querySelectorAll(stops)].indexOf(document.activeElement!);
  if (at >= 0) to.querySelectorAll<HTMLElement>(stops)[at]?.focus({ preventScroll: true });
}

function decisionText(text: string): string {
  const words = visible(text) || "decided";
  return words[0]!.toUpperCase() + words.slice(1);
}

function marked<T extends HTMLElement>(element: T, message: Message): T {
  element.dataset.message = message.id;
  return element;
}

function fold(label: string, content: Node[], status: Node | null = null): HTMLDetailsElement {
  return h("details", {}, h("summary", {}, h("span", { class: "label" }, label), status), ...content);
}

const SHOWN_ARGUMENT = 60;

function callFold(call: Call, running: boolean): HTMLDetailsElement {
  const words = { pending: running ? "running" : "no result", success: "done", error: "failed" }[call.status];
  const status = h("span", { class: `status ${call.status}` }, words);
  const label = call.name ? `${visible(call.name)}(${shortArguments(call)})` : "Result of a tool";
  const content: Node[] = [h("pre", { tabindex: "0" }, visible(callText(call.name, call.arguments)))];
  if (call.result) content.push(h("pre", { class: "result", tabindex: "0" }, visible(call.result)));
  return fold(label, content, status);
}

function shortArguments(call: Call): string {
  try {
    const values = Object.values(JSON.parse(call.arguments || "{}") as object);
    const first = values.length ? (typeof values[0] === "string" ? `“${values[0]}”` : JSON.stringify(values[0])) : "";
    const text = visible(first).replace(/\s+/g, " ");
    return (text.length > SHOWN_ARGUMENT ? `${text.slice(0, SHOWN_ARGUMENT)}…` : text) + (values.length > 1 ? ", …" : "");
  } catch {
    return "…";
  }
}
