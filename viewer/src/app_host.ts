/**
 * The viewer inside an MCP host: JSON-RPC with the window around it (MCP Apps, 2026-01-26).
 *
 * The shapes are the official package's. Its `App` class is not bundled: with the client, the schemas and zod it brings
 * 400 KB of script for the eight messages that are needed here.
 */
import type {
  McpUiDownloadFileRequest,
  McpUiHostContext,
  McpUiInitializeRequest,
  McpUiInitializeResult,
  McpUiOpenLinkRequest,
  McpUiRequestDisplayModeRequest,
  McpUiSizeChangedNotification,
  McpUiUpdateModelContextRequest,
} from "@modelcontextprotocol/ext-apps";
import { setLocale } from "./dom";
import { type Answer, answerOf, type Data, Disconnected, type Host, type Place } from "./host";

type Outgoing =
  | McpUiInitializeRequest
  | McpUiOpenLinkRequest
  | McpUiDownloadFileRequest
  | McpUiRequestDisplayModeRequest
  | McpUiUpdateModelContextRequest
  | { method: "tools/call"; params: { name: string; arguments: Data } };

const PROTOCOL = "2026-01-26";
const ANSWER_MS = 90_000;
const INLINE_HEIGHT = 680;

export class AppHost implements Host {
  toggleFullscreen?: () => Promise<void>;
  private context: McpUiHostContext = {};
  private capabilities: McpUiInitializeResult["hostCapabilities"] = {};
  private waiting = new Map<number, { resolve: (result: Data) => void; reject: (error: Error) => void }>();
  private last = 0;
  private open: (place: Place) => void = () => {};

  async start(open: (place: Place) => void): Promise<void> {
    this.open = open;
    window.addEventListener("message", (event) => {
      if (event.source === window.parent) this.receive(event.data as Data);
    });
    const hello = (await this.request({
      method: "ui/initialize",
      params: {
        appInfo: { name: "letta-conversations-viewer", version: "1" },
        appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
        protocolVersion: PROTOCOL,
      },
    })) as unknown as McpUiInitializeResult;
    this.capabilities = hello.hostCapabilities ?? {};
    this.take(hello.hostContext ?? {});
    this.notify("ui/notifications/initialized", {});
    this.resize();
  }

  async call(tool: string, args: Data): Promise<Answer> {
    return answerOf(await this.request({ method: "tools/call", params: { name: tool, arguments: args } }));
  }

  openLink(url: string): void {
    void this.request({ method: "ui/open-link", params: { url } }).catch(() => {});
  }

  async download(name: string, text: string): Promise<boolean> {
    if (!this.capabilities.downloadFile) return false;
    const resource = { uri: `file:///${encodeURIComponent(name)}`, mimeType: "text/markdown", text };
    const result = await this.request({ method: "ui/download-file", params: { contents: [{ type: "resource", resource }] } });
    return !result.isError;
  }

  opening(): void {}

  showed(place: Place, _title: string): void {
    if (!this.capabilities.updateModelContext || !place.conversation) return;
    // Ids only: what agents and people wrote must not reach the model as if it came from the user.
    const text = `The viewer shows conversation_id=${place.conversation} of agent ${place.agent}.`;
    void this.request({ method: "ui/update-model-context", params: { content: [{ type: "text", text }] } }).catch(() => {});
  }

  private take(context: McpUiHostContext): void {
    Object.assign(this.context, context);
    const root = document.documentElement;
    if (this.context.theme) root.style.colorScheme = this.context.theme;
    try {
      if (this.context.locale) setLocale(this.context.locale, this.context.timeZone);
    } catch {
      // The host's locale is none that the browser knows: its own stays.
    }
    for (const [name, value] of Object.entries(this.context.styles?.variables ?? {})) {
      if (name.startsWith("--") && value) root.style.setProperty(name, value);
    }
    const insets = this.context.safeAreaInsets;
    if (insets) root.style.padding = `${insets.top}px ${insets.right}px ${insets.bottom}px ${insets.left}px`;
    if (this.context.availableDisplayModes?.includes("fullscreen")) {
      this.toggleFullscreen = async () => {
        const mode = this.context.displayMode === "fullscreen" ? "inline" : "fullscreen";
        const result = await this.request({ method: "ui/request-display-mode", params: { mode } });
        this.context.displayMode = result.mode as typeof mode;
        this.resize();
      };
    }
  }

  /** The transcript scrolls inside the page, so the height asked for does not depend on it. */
  private resize(): void {
    if (this.context.displayMode === "fullscreen") return;
    const most = (this.context.containerDimensions as { maxHeight?: number } | undefined)?.maxHeight ?? INLINE_HEIGHT;
    const params: McpUiSizeChangedNotification["params"] = { height: Math.min(INLINE_HEIGHT, most) };
    this.notify("ui/notifications/size-changed", params);
  }

  private receive(message: Data): void {
    if (message?.jsonrpc !== "2.0") return;
    const params = (message.params ?? {}) as Data;
    if (typeof message.method !== "string") {
      const waiting = this.waiting.get(message.id as number);
      this.waiting.delete(message.id as number);
      if (message.error) waiting?.reject(new Disconnected(String((message.error as Data).message)));
      else waiting?.resolve((message.result ?? {}) as Data);
    } else if (message.method === "ui/notifications/tool-result") {
      const shown = (params.structuredContent ?? {}) as Data;
      this.open({ conversation: String(shown.conversation_id ?? ""), agent: String(shown.agent_id ?? "") });
    } else if (message.method === "ui/notifications/host-context-changed") {
      this.take(params as McpUiHostContext);
    } else if (message.id !== undefined) {
      const known = message.method === "ping" || message.method === "ui/resource-teardown";
      const outcome = known ? { result: {} } : { error: { code: -32601, message: "Method not found" } };
      this.post({ jsonrpc: "2.0", id: message.id, ...outcome });
    }
  }

  private request(message: Outgoing): Promise<Data> {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Disconnected("The host did not answer."));
      }, ANSWER_MS);
      const settle =
        <T>(then: (value: T) => void) =>
        (value: T) => {
          clearTimeout(timer);
          then(value);
        };
      this.waiting.set(id, { resolve: settle(resolve), reject: settle(reject) });
      this.post({ jsonrpc: "2.0", id, ...message });
    });
  }

  private notify(method: string, params: Data | McpUiSizeChangedNotification["params"]): void {
    this.post({ jsonrpc: "2.0", method, params });
  }

  private post(message: unknown): void {
    window.parent.postMessage(message, "*");
  }
}
