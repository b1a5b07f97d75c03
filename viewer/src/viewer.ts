/** One conversation on one page: reads, sends, decides. What it shows comes from the server, what it keeps is a view. */
import { approvalCard, type Decision } from "./approval";
import { conversationPicker, type Listed, listConversations } from "./conversation_list";
import { button, h, visible, when } from "./dom";
import { type Data, Disconnected, type Host, messageOf, type Place, TokenNeeded, ToolError } from "./host";
import { saveToken } from "./http_host";
import { InOrder } from "./in_order";
import { markdown } from "./markdown";
import { type Message, number, type Page, readPage, sameCalls, texts, toMarkdown, type Call } from "./messages";
import { ask, closeAll, dialog, dropdown } from "./panels";
import { openSearch } from "./search";
import { Transcript } from "./transcript";

const FIRST_PAGE = 50;
const PAGE = 100;
const WAIT_SECONDS = 1;
const REFRESH_MS = 15_000;
const RETRY_MS = [1_000, 2_000, 4_000, 8_000];
const NEAR = 160;

/** A message on its way. The server takes one key once, so that sending it again is always safe. */
interface Outgoing {
  text: string;
  key: string;
  /** The last message that was listed before this one; empty for none. */
  after: string;
  state: "sending" | "taken" | "refused" | "unconfirmed";
  note: string;
}

interface Turn {
  run: string;
  since: number;
  text: string;
  doing: string;
}

export class Viewer {
  readonly element: HTMLElement;
  private place: Place = { conversation: "", agent: "" };
  private agentName = "agent";
  private summary = "";
  private messages: Message[] = [];
  private older = "";
  private pending: Call[] = [];
  private outgoing: Outgoing | null = null;
  private turn: Turn | null = null;
  private offline = false;
  private loading: Promise<boolean> | null = null;
  /** Whether the open conversation's messages and name are here. What acts on it is not offered before. */
  private loaded = false;
  /** Counts what was opened. Only `whileOpen` and a message's delivery, which goes on elsewhere, look at it. */
  private epoch = 0;
  private changing = false;
  private readonly refreshes = new InOrder();
  private readonly descriptions = new InOrder();
  /** What was written and not sent, and what was sent and not taken, by conversation: it stays with its own. */
  private readonly drafts = new Map<string, string>();
  private readonly unsent = new Map<string, Outgoing>();
  /** Whether the view follows what is added; somebody who reads further up is not moved. */
  private atEnd = true;
  private lastTop = 0;

  private readonly transcript: Transcript;
  private readonly title = h("h1", { class: "title" }, "Letta conversations");
  private readonly sub = h("span", { class: "sub" });
  private readonly meter = h("div", { class: "meter", hidden: true });
  private readonly actions = h("div", { class: "actions" });
  private readonly olderButton = button("Load older messages", () => this.loadOlder(), { class: "btn older", hidden: true });
  private readonly waiting = h("div", { class: "waiting" });
  private readonly live = h("div", { class: "live" });
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly state = h("div", { class: "state", role: "status" });
  private readonly box = h("textarea", { rows: 1, "aria-label": "Message", maxlength: 1_000_000, enterkeyhint: "send" });
  private readonly sendButton = button("Send", () => this.send(), { class: "btn primary send" });
  private readonly footer: HTMLElement;
  private readonly scroller: HTMLElement;
  private readonly jump = button("↓ Newest", () => this.toEnd(), { class: "btn jump", hidden: true });

  constructor(private readonly host: Host) {
    this.transcript = new Transcript({
      openLink: (url) => host.openLink(url),
      fork: (message) => this.fork(message.id),
      agentName: () => this.agentName,
      isRunning: () => this.turn !== null,
      isPending: (call) => this.pending.some((each) => each.id === call.id && each.arguments === call.arguments),
    });
    this.scroller = h("main", { tabindex: "0", "aria-label": "Transcript" }, this.olderButton, this.transcript.element, this.waiting, this.live);
    this.footer = h("footer", { hidden: true }, this.state, h("div", { class: "composer" }, this.box, this.sendButton));
    this.element = h(
      "div",
      { class: "app" },
      h("header", { class: "top" }, h("div", { class: "row" }, h("div", { class: "names" }, this.title, this.sub), this.actions), this.meter, this.banner),
      h("div", { class: "middle" }, this.scroller, this.jump),
      this.footer,
    );
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.send();
    });
    this.box.addEventListener("input", () => this.fitBox());
    this.scroller.addEventListener("scroll", () => {
      const top = this.scroller.scrollTop;
      if (this.isAtEnd()) this.atEnd = true;
      else if (top < this.lastTop) this.atEnd = false;
      this.lastTop = top;
      this.jump.hidden = this.isAtEnd();
      if (this.scroller.scrollTop < NEAR && this.older) void this.loadOlder();
    });
    // Messages get their real height when they come into view, some frames after they were added.
    const grown = new ResizeObserver(() => {
      if (this.atEnd) this.toEnd();
    });
    for (const part of [this.scroller, this.transcript.element, this.waiting, this.live]) grown.observe(part);
    document.addEventListener("visibilitychange", () => void this.refreshQuietly());
    setInterval(() => void this.refreshQuietly(), REFRESH_MS);
    setInterval(() => this.renderState(), 1_000);
  }

  async start(): Promise<void> {
    this.state.textContent = "Connecting…";
    try {
      await this.host.start((place) => void this.open(place));
    } catch (error) {
      this.say(`The viewer could not connect to its host. ${messageOf(error)}`);
    }
  }

  // ---- opening ----

  private async open(place: Place): Promise<void> {
    const focused = this.element.contains(document.activeElement);
    if (this.loaded) this.drafts.set(this.key(), this.box.value);
    this.epoch++;
    this.place = place;
    Object.assign(this, { messages: [], older: "", pending: [], outgoing: null, turn: null, summary: "", agentName: "agent" });
    Object.assign(this, { loaded: false, loading: null, changing: false, announced: "" });
    closeAll();
    this.title.textContent = "Conversation";
    this.title.title = "";
    this.sub.textContent = "";
    this.say("");
    this.meter.hidden = true;
    this.render();
    this.host.opening(place);
    if (!place.conversation) return this.choose();
    this.transcript.element.replaceChildren(h("p", { class: "empty" }, "Loading…"));
    await this.showing(async () => {
      const [page] = await Promise.all([this.fetch({ limit: FIRST_PAGE }), this.describe()]);
      this.place = { conversation: page.conversation, agent: page.agent };
      this.transcript.element.replaceChildren();
      this.messages = page.messages;
      this.older = page.older;
      this.outgoing = this.unsent.get(this.key()) ?? null;
      this.box.value = this.drafts.get(this.key()) ?? "";
      this.takeState(page);
      this.loaded = true;
      this.render();
      this.fitBox();
      this.toEnd();
      if (focused) this.keepFocus();
      this.host.showed(this.place, this.name());
    });
  }

  /** No conversation was named: lists those of the agent, or of everybody. */
  private async choose(): Promise<void> {
    this.title.textContent = "Conversations";
    const rows = h("div", { class: "choices" }, h("p", { class: "empty" }, "Loading…"));
    this.transcript.element.replaceChildren(rows);
    await this.showing(() => listConversations(rows, this.listed()));
  }

  private listed(chosen = () => {}): Listed {
    const open = (place: Place) => {
      chosen();
      void this.open(place);
    };
    return { place: this.place, call: (tool, args) => this.call(tool, args), open };
  }

  /** Loads what the page is to show; where that fails, the page says so. */
  private async showing(load: () => Promise<void>): Promise<void> {
    try {
      await load();
    } catch (error) {
      this.report(error);
      if (error instanceof TokenNeeded) return;
      const again = button("Try again", () => this.open(this.place));
      this.transcript.element.replaceChildren(h("div", { class: "empty" }, h("p", {}, `This could not be loaded. ${visible(messageOf(error))}`), again));
    }
  }

  // ---- asking the server ----

  /**
   * What is waited for on behalf of the open conversation. Once another is opened it never settles: what was to follow
   * would be done to the wrong one.
   */
  private whileOpen<T>(waited: Promise<T>): Promise<T> {
    const { epoch } = this;
    return new Promise((resolve, reject) => {
      waited.then(
        (value) => epoch === this.epoch && resolve(value),
        (error) => epoch === this.epoch && reject(error),
      );
    });
  }

  private call(tool: string, args: Data): Promise<Data> {
    return this.whileOpen(this.request(tool, args));
  }

  private async request(tool: string, args: Data): Promise<Data> {
    try {
      const { data } = await this.host.call(tool, args);
      this.setOffline(false);
      return data;
    } catch (error) {
      this.setOffline(error instanceof Disconnected);
      throw error;
    }
  }

  private key(): string {
    const { conversation, agent } = this.place;
    return conversation === "default" ? `${conversation} ${agent}` : conversation;
  }

  private name(): string {
    if (this.place.conversation === "default") return "Default conversation";
    return this.summary || "Untitled conversation";
  }

  private async describe(): Promise<void> {
    const isNewest = this.descriptions.ask();
    const data = await this.call("describe", this.where());
    if (!isNewest()) return;
    this.agentName = texts(data, "agent_name") || "agent";
    this.summary = texts(data, "summary");
    this.title.textContent = this.title.title = visible(this.name());
    this.sub.textContent = [this.agentName, texts(data, "model"), data.archived ? "archived" : ""].filter(Boolean).map(visible).join(" · ");
    this.renderMeter(data);
    this.box.placeholder = `Message ${visible(this.agentName)}`;
  }

  private renderMeter(data: Data): void {
    const used = number(data, "context_tokens");
    const limit = number(data, "context_limit");
    const count = number(data, "messages");
    const facts = [
      used !== undefined && limit ? `${used.toLocaleString()} of ${limit.toLocaleString()} tokens` : "",
      count === undefined ? "" : `${data.at_least ? "at least " : ""}${count.toLocaleString()} message${count === 1 ? "" : "s"}`,
    ].filter(Boolean);
    this.meter.hidden = facts.length === 0;
    const children: Node[] = [];
    if (used !== undefined && limit) {
      const share = Math.min(100, Math.round((100 * used) / limit));
      const fill = h("i", { class: share >= 85 ? "full" : undefined });
      fill.style.width = `${share}%`;
      const meter = { class: "bar", role: "meter", "aria-label": "Context use", "aria-valuenow": share, "aria-valuemin": 0, "aria-valuemax": 100 };
      children.push(h("span", {}, "Context"), h("div", { ...meter, title: `${share} % of the context is used` }, fill));
    }
    this.meter.replaceChildren(...children, h("span", {}, facts.join(" · ")));
  }

  // ---- reading ----

  private where(): Data {
    const { conversation, agent } = this.place;
    return conversation === "default" ? { conversation_id: conversation, agent } : { conversation_id: conversation };
  }

  private async fetch(args: Data): Promise<Page> {
    return readPage(await this.call("view_messages", { ...this.where(), ...args }));
  }

  /** Whether there is more now; a second call waits for the first. */
  private loadOlder(): Promise<boolean> {
    if (!this.older) return Promise.resolve(false);
    if (!this.loading) {
      this.loading = this.readOlder().finally(() => {
        this.loading = null;
        this.renderOlder();
      });
      this.renderOlder();
    }
    return this.loading;
  }

  private async readOlder(): Promise<boolean> {
    const { older } = this;
    try {
      const page = await this.fetch({ before: older, limit: PAGE });
      // A refresh began the transcript anew.
      if (older !== this.older) return true;
      const fromEnd = this.scroller.scrollHeight - this.scroller.scrollTop;
      this.messages = [...page.messages, ...this.messages];
      this.older = page.older;
      this.renderTranscript();
      this.scroller.scrollTop = this.scroller.scrollHeight - fromEnd;
      return true;
    } catch (error) {
      this.report(error);
      return false;
    }
  }

  private renderOlder(): void {
    this.olderButton.textContent = this.loading ? "Loading…" : "Load older messages";
    this.olderButton.hidden = !this.older;
  }

  /** Reads what is new since the last message of a person, whose turn may have grown, and what waits or runs. */
  private async refresh(): Promise<Page> {
    const { turn } = this;
    const isNewest = this.refreshes.ask();
    const index = this.messages.findLastIndex((message) => message.kind === "user");
    const anchor = this.messages.slice(0, Math.max(index, 0)).findLast((message) => message.id !== this.messages[index]?.id);
    let page: Page;
    if (anchor) {
      const newer: Message[] = [];
      let after = anchor.id;
      do {
        page = await this.fetch({ after, limit: PAGE });
        newer.push(...page.messages);
        after = page.newer;
      } while (after && page.messages.length);
      if (!isNewest()) return page;
      // Older messages may have come in the meantime.
      const kept = this.messages.findLastIndex((message) => message.id === anchor.id) + 1;
      this.messages = [...this.messages.slice(0, kept), ...newer];
    } else {
      page = await this.fetch({ limit: FIRST_PAGE });
      if (!isNewest()) return page;
      this.messages = page.messages;
      this.older = page.older;
    }
    // What waits and runs may have been so before a turn began; a turn that is followed says it when it ends.
    if (!turn && !this.turn) this.takeState(page);
    this.render();
    return page;
  }

  private takeState(page: Page): void {
    this.pending = page.pending;
    if (!page.run || page.pending.length) return;
    this.turn = { run: page.run, since: Date.now(), text: "", doing: "" };
    void this.follow(this.turn);
  }

  /** Others write here too. Not while somebody reads, types a reason, or the page is hidden. */
  private async refreshQuietly(): Promise<void> {
    if (document.hidden || this.turn || this.outgoing?.state === "sending" || !this.loaded || this.loading) return;
    if (this.waiting.contains(document.activeElement)) return;
    await this.trying(() => this.refresh());
  }

  // ---- sending and waiting ----

  /** Whether a message has to wait for the end of a turn, or for a decision. */
  private isBlocked(): boolean {
    return this.turn !== null || this.pending.length > 0 || this.outgoing?.state === "sending";
  }

  private async send(): Promise<void> {
    const text = this.box.value;
    if (!text.trim() || this.isBlocked()) return;
    this.box.value = "";
    this.fitBox();
    await this.deliver({ text, key: crypto.randomUUID(), after: "", state: "sending", note: "" });
  }

  /** Goes on while another conversation is open: what was said here reaches this one, or is found here as not sent. */
  private async deliver(outgoing: Outgoing): Promise<void> {
    if (this.isBlocked()) return;
    const { epoch } = this;
    const key = this.key();
    const args = { ...this.where(), message: outgoing.text, message_key: outgoing.key, wait_seconds: WAIT_SECONDS };
    const turn = { run: "", since: Date.now(), text: "", doing: "Sending" };
    Object.assign(outgoing, { state: "sending", note: "", after: this.messages.at(-1)?.id ?? "" });
    this.outgoing = outgoing;
    this.turn = turn;
    this.unsent.set(key, outgoing);
    this.announced = "";
    this.say("");
    this.render();
    this.toEnd();
    const data = await this.handOver(outgoing, args);
    if (outgoing.state === "taken") this.unsent.delete(key);
    if (this.outgoing !== outgoing) return;
    if (epoch !== this.epoch) {
      // Opened again in the meantime: the turn, if it still runs, is found as another's would be.
      if (data) this.outgoing = null;
      await this.trying(() => this.refresh());
    } else if (data) {
      return this.follow(turn, data);
    } else {
      this.turn = null;
    }
    this.render();
    this.toEnd();
  }

  /** What the server answered once it took the message; otherwise `outgoing` says why it did not. */
  private async handOver(outgoing: Outgoing, args: Data): Promise<Data | undefined> {
    const failed = (state: Outgoing["state"], note: string) => void Object.assign(outgoing, { state, note });
    for (let attempt = 0; ; attempt++) {
      try {
        const data = await this.request("send_message", args);
        if (["unknown", "not_confirmed"].includes(texts(data, "status"))) return failed("unconfirmed", "Letta could not confirm that it has this message.");
        outgoing.state = "taken";
        return data;
      } catch (error) {
        if (error instanceof Disconnected && attempt < RETRY_MS.length) {
          await pause(RETRY_MS[attempt]!);
          continue;
        }
        if (error instanceof TokenNeeded) this.report(error);
        if (error instanceof TokenNeeded || error instanceof ToolError) return failed("refused", error.message);
        return failed("unconfirmed", "There is no connection.");
      }
    }
  }

  /** Follows a turn to its end; `data` is what the call that began it answered. */
  private async follow(turn: Turn, data?: Data): Promise<void> {
    let failures = 0;
    for (;;) {
      try {
        data ??= await this.call("wait_for_reply", { ...this.where(), ...(turn.run ? { run_id: turn.run } : {}), wait_seconds: WAIT_SECONDS });
        failures = 0;
        if (texts(data, "status") !== "running") break;
        turn.run = texts(data, "run_id") || turn.run;
        if (turn.doing === "Sending") turn.doing = "";
        this.grow(turn, texts(data, "reply_so_far"));
        data = undefined;
      } catch (error) {
        if (error instanceof ToolError) {
          data = { status: "failed", note: error.message };
          break;
        }
        this.report(error);
        await this.whileOpen(pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]!));
      }
    }
    await this.ended(data);
  }

  private grow(turn: Turn, text: string): void {
    if (text === turn.text) return this.renderState();
    turn.text = text;
    if (turn.doing !== "Stopping") turn.doing = "Writing its answer";
    this.renderLive();
  }

  private async ended(data: Data): Promise<void> {
    const status = texts(data, "status");
    for (let attempt = 0; ; attempt++) {
      try {
        this.pending = (await this.refresh()).pending;
        break;
      } catch (error) {
        this.report(error);
        await this.whileOpen(pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]!));
      }
    }
    // A run that is still listed as active right after its end is the one that has just ended.
    this.turn = null;
    if (this.outgoing?.state === "taken") this.outgoing = null;
    this.render();
    if (["failed", "cancelled", "unknown", "empty"].includes(status)) {
      const words: Record<string, string> = { cancelled: "This turn was stopped.", empty: "The agent ended its turn without saying anything." };
      this.say(words[status] ?? (texts(data, "note") || "The turn failed."));
    }
    this.announce(status === "needs_approval" ? `${this.agentName} waits for your decision` : "The reply is complete");
    this.describe().catch(() => {});
  }

  private async stop(): Promise<void> {
    if (this.turn) this.turn.doing = "Stopping";
    this.renderState();
    await this.trying(() => this.call("cancel", this.where()));
  }

  private async decide(shown: Call[], { approve, ids, reason }: Decision): Promise<void> {
    let turn: Turn | null = null;
    try {
      const page = await this.fetch({ limit: 1 });
      if (!sameCalls(page.pending, shown)) {
        await this.refresh();
        return this.say("What waits has changed since it was shown. Nothing was decided; please look again.");
      }
      this.pending = [];
      this.turn = turn = { run: "", since: Date.now(), text: "", doing: approve ? "Approved; working" : "Denied; going on" };
      this.announced = "";
      this.render();
      this.keepFocus();
      const args = { ...this.where(), approve, ...(approve ? { tool_call_ids: ids } : {}), ...(reason ? { reason } : {}), wait_seconds: WAIT_SECONDS };
      await this.follow(turn, await this.call("respond_to_approval", args));
    } catch (error) {
      if (this.turn === turn) this.turn = null;
      this.report(error);
      // The decision may have been taken; what waits now is what the server says.
      await this.refresh().catch(() => {
        this.pending = shown;
        this.render();
      });
    }
  }

  // ---- changing ----

  /** One change at a time: a second click on “Fork” is no second branch. */
  private async change(action: () => Promise<void>): Promise<void> {
    if (this.changing) return;
    this.changing = true;
    await this.trying(action);
    this.changing = false;
  }

  private fork(at = ""): Promise<void> {
    return this.change(async () => {
      const from = this.name();
      const summary = this.summary ? `${this.summary} (branch)` : "";
      this.announce("Opening a branch");
      const data = await this.call("fork", { ...this.where(), ...(at ? { at_message: at } : {}), ...(summary ? { summary } : {}) });
      await this.open({ conversation: texts(data, "conversation_id"), agent: texts(data, "agent_id") });
      this.say(`This is a branch of “${visible(from)}”. ${texts(data, "note") || "What is said here stays here; the agent's memory is shared."}`);
    });
  }

  private rename(): Promise<void> {
    return this.change(async () => {
      const summary = await this.whileOpen(ask("Rename the conversation", "Name", this.summary, "Rename"));
      if (summary === undefined || summary === this.summary) return;
      await this.call("update", { conversation_id: this.place.conversation, summary });
      await this.describe();
      this.host.showed(this.place, this.name());
    });
  }

  private create(): Promise<void> {
    return this.change(async () => {
      const summary = await this.whileOpen(ask("New conversation", "Name (optional)", "", "Open"));
      if (summary === undefined) return;
      const data = await this.call("create_conversation", { agent: this.place.agent, ...(summary ? { summary } : {}) });
      await this.open({ conversation: texts(data, "conversation_id"), agent: texts(data, "agent_id") });
    });
  }

  private async export(): Promise<void> {
    while (this.older) {
      this.announce(`Reading older messages: ${this.messages.length} so far`);
      if (!(await this.loadOlder())) return;
      await this.whileOpen(pause(0));
    }
    const done = `Exported ${this.messages.length} messages`;
    const text = toMarkdown(this.name(), this.agentName, this.messages);
    const file = `${this.name().replace(/[^\p{L}\p{N}._ -]+/gu, "-").slice(0, 80) || "conversation"}.md`;
    if (await this.whileOpen(this.host.download(file, text).catch(() => false))) return this.announce(done);
    const area = h("textarea", { readonly: true, rows: 14, "aria-label": "Transcript" });
    area.value = text;
    dialog("Transcript as Markdown", h("p", { class: "sub" }, "This host does not save files. Copy the text instead."), area);
    area.select();
  }

  private goTo(id: string): Promise<void> {
    return this.trying(async () => {
      // It may be newer than what is shown.
      if (!this.transcript.find(id)) await this.refresh();
      while (!this.transcript.find(id) && this.older) if (!(await this.loadOlder())) return;
      const target = this.transcript.find(id);
      if (!target) return this.say("That message is not in the transcript any more.");
      for (let fold = target.closest("details"); fold; fold = fold.parentElement?.closest("details") ?? null) fold.open = true;
      this.scroller.focus({ preventScroll: true });
      target.scrollIntoView({ block: "center" });
      target.classList.add("hit");
      setTimeout(() => target.classList.remove("hit"), 2_500);
    });
  }

  // ---- the menus ----

  private renderActions(): void {
    if (!this.place.conversation) return this.actions.replaceChildren();
    if (!this.actions.childElementCount) this.buildActions();
    for (const each of this.needingConversation) each.disabled = !this.loaded;
  }

  private needingConversation: HTMLButtonElement[] = [];

  private buildActions(): void {
    const conversations = dropdown("Conversations ▾", (panel, close) => {
      const fresh = button("New conversation", () => {
        close();
        void this.create();
      });
      fresh.disabled = !this.place.agent;
      panel.append(...conversationPicker(this.listed(close)), fresh);
    });
    const more = dropdown(
      "⋯",
      (panel, close) => {
        const entry = (label: string, action: () => unknown) =>
          button(label, () => {
            close();
            void action();
          }, { class: "menu" });
        panel.append(entry("Search…", () => openSearch(this.agentName, (query) => this.call("search_messages", { ...this.where(), query }), (id) => void this.goTo(id))));
        if (this.place.conversation !== "default") panel.append(entry("Rename…", () => this.rename()));
        panel.append(entry("Export as Markdown", () => this.export()));
        panel.append(entry("Refresh", () => this.trying(() => this.refresh())));
        if (this.host.toggleFullscreen) panel.append(entry("Larger or smaller", () => this.trying(() => this.host.toggleFullscreen!())));
      },
      { "aria-label": "More" },
    );
    const fork = button("Fork", () => this.fork());
    this.needingConversation = [fork, more.opener];
    this.actions.append(conversations.opener, fork, more.opener, conversations.panel, more.panel);
  }

  // ---- showing ----

  private render(): void {
    this.footer.hidden = !this.loaded;
    this.renderActions();
    this.renderTranscript();
    this.renderWaiting();
    this.renderLive();
    this.renderState();
    this.renderOlder();
  }

  private renderTranscript(): void {
    const empty = !this.messages.length && !this.outgoing && !this.turn && this.loaded;
    this.element.classList.toggle("is-empty", empty);
    if (this.place.conversation) this.transcript.render(this.messages);
  }

  private shownCard = "";

  private renderWaiting(): void {
    const shown = JSON.stringify([this.agentName, this.pending]);
    if (shown === this.shownCard) return;
    this.shownCard = shown;
    if (!this.pending.length) return this.waiting.replaceChildren();
    const calls = this.pending;
    const since = this.messages.findLast((message) => message.kind === "approval")?.at ?? "";
    this.waiting.replaceChildren(approvalCard(this.agentName, calls, when(since, new Date().toISOString()), (decision) => this.decide(calls, decision)));
  }

  private shownLive = "";

  private renderLive(): void {
    const { outgoing, turn } = this;
    const since = outgoing ? this.messages.slice(this.messages.findLastIndex((message) => message.id === outgoing.after) + 1) : [];
    const isListed = since.some((message) => message.kind === "user" && message.text === outgoing?.text);
    // A button of it may have the focus.
    const shown = JSON.stringify([this.agentName, outgoing, isListed, turn?.text, this.isBlocked()]);
    if (shown === this.shownLive) return;
    this.shownLive = shown;
    const parts: Node[] = [];
    if (outgoing && !(isListed && !outgoing.note)) {
      const who = h("header", { class: "who" }, h("b", {}, "User"), h("time", {}, { sending: "sending", taken: "now", refused: "not sent", unconfirmed: "not confirmed" }[outgoing.state]));
      const article = h("article", { class: `msg user ${outgoing.state}` }, who, markdown(outgoing.text, (url) => this.host.openLink(url)));
      if (outgoing.note) {
        const again = button("Send again", () => this.deliver(outgoing));
        again.disabled = this.isBlocked();
        const discard = button("Edit", () => {
          this.box.value = [outgoing.text, this.box.value].filter(Boolean).join("\n\n");
          this.outgoing = null;
          this.unsent.delete(this.key());
          this.render();
          this.fitBox();
          this.box.focus();
        });
        article.append(h("p", { class: "problem" }, visible(outgoing.note)), h("div", { class: "row" }, again, discard, h("span", { class: "sub" }, "Sending again never doubles it.")));
      }
      parts.push(article);
    }
    if (turn?.text) {
      const body = markdown(turn.text, (url) => this.host.openLink(url));
      const end = body.lastElementChild?.tagName === "P" ? body.lastElementChild : body;
      end.append(h("span", { class: "cursor", "aria-hidden": "true" }));
      parts.push(h("article", { class: "msg agent", "aria-busy": "true" }, h("header", { class: "who" }, h("b", {}, visible(this.agentName)), h("time", {}, "now")), body));
    }
    this.live.replaceChildren(...parts);
  }

  private announced = "";

  private announce(words: string): void {
    this.announced = words;
    this.renderState();
    setTimeout(() => {
      if (this.announced === words) this.announced = "";
      this.renderState();
    }, 4_000);
  }

  private shownState = "";

  private renderState(): void {
    const { turn } = this;
    this.sendButton.disabled = this.isBlocked();
    let words = this.announced;
    if (this.offline) words = "Not connected. Trying again…";
    else if (turn) words = turn.doing || "Working";
    else if (this.pending.length && !words) words = `${this.agentName} takes no message before your decision.`;
    const seconds = turn && !this.offline ? Math.round((Date.now() - turn.since) / 1000) : 0;
    // Before the server has the message, nothing runs that could be stopped.
    const stoppable = turn !== null && this.outgoing?.state !== "sending";
    const key = `${words}|${stoppable}`;
    if (key !== this.shownState) {
      this.shownState = key;
      // The seconds are not read out: they would interrupt a screen reader every second.
      const clock = h("span", { class: "clock", "aria-hidden": "true" });
      this.state.replaceChildren(visible(words), clock, ...(stoppable ? [" · ", button("stop", () => this.stop(), { class: "link" })] : []));
    }
    const clock = this.state.querySelector(".clock");
    if (clock) clock.textContent = seconds > 1 ? ` · ${seconds} s` : "";
    this.state.classList.toggle("offline", this.offline);
  }

  private say(words: string): void {
    this.banner.hidden = !words;
    this.banner.replaceChildren();
    if (words) this.banner.append(h("span", {}, visible(words)), button("✕", () => this.say(""), { class: "quiet", "aria-label": "Close this notice" }));
  }

  private setOffline(offline: boolean): void {
    if (this.offline === offline) return;
    this.offline = offline;
    this.renderState();
  }

  private report(error: unknown): void {
    if (error instanceof TokenNeeded) return void this.askForToken(error.message);
    // That there is no connection is said by the state.
    if (!(error instanceof Disconnected)) this.say(messageOf(error));
  }

  private asking = false;

  private async askForToken(why: string): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    const token = await ask("This server asks for a token", "Token", "", "Connect", "password");
    this.asking = false;
    if (!token) return this.say(why);
    saveToken(token);
    await this.open(this.place);
  }

  private async trying(action: () => Promise<unknown>): Promise<void> {
    try {
      await action();
    } catch (error) {
      this.report(error);
    }
  }

  /** Where what had the focus is gone, the transcript has it, so that the keyboard goes on from there. */
  private keepFocus(): void {
    if (!this.element.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
  }

  private isAtEnd(): boolean {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR;
  }

  private toEnd(): void {
    this.atEnd = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  private fitBox(): void {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 160)}px`;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
