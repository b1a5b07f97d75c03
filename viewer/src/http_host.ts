/** The viewer as a page of our own server: one MCP request over HTTP for each call, without a session. */
import { type Answer, answerOf, type Data, Disconnected, type Host, type Place, TokenNeeded, ToolError } from "./host";

const PROTOCOL = "2026-07-28";
const META = "io.modelcontextprotocol/";
const ANSWER_MS = 90_000;
const TOKEN = "letta-conversations-token";
const TITLE = document.title;

export class HttpHost implements Host {
  private last = 0;

  async start(open: (place: Place) => void): Promise<void> {
    const read = () => {
      const given = new URLSearchParams(location.hash.slice(1));
      const token = given.get("token");
      if (token) {
        // The part behind "#" is never sent to a server; this keeps it out of the history as well.
        saveToken(token);
        given.delete("token");
        history.replaceState(null, "", `${location.pathname}#${given}`);
      }
      open(named());
    };
    // "hashchange" comes later: an answer that came before it would put the address of what was left in place of this one.
    window.addEventListener("popstate", read);
    read();
  }

  async call(tool: string, args: Data): Promise<Answer> {
    const token = sessionStorage.getItem(TOKEN);
    const id = ++this.last;
    const _meta = {
      [`${META}protocolVersion`]: PROTOCOL,
      [`${META}clientInfo`]: { name: "letta-conversations-viewer", version: "1" },
      [`${META}clientCapabilities`]: { extensions: { [`${META}ui`]: { mimeTypes: ["text/html;profile=mcp-app"] } } },
    };
    let status: number;
    let body: Data;
    try {
      const response = await fetch("mcp", {
        method: "POST",
        credentials: "omit",
        signal: AbortSignal.timeout(ANSWER_MS),
        headers: {
          "Content-Type": "application/json",
          Accept: "application/json, text/event-stream",
          "MCP-Protocol-Version": PROTOCOL,
          "Mcp-Method": "tools/call",
          "Mcp-Name": tool,
          ...(token ? { Authorization: `Bearer ${token}` } : {}),
        },
        body: JSON.stringify({ jsonrpc: "2.0", id, method: "tools/call", params: { name: tool, arguments: args, _meta } }),
      });
      status = response.status;
      const text = await response.text();
      const events = response.headers.get("Content-Type")?.startsWith("text/event-stream");
      body = events ? finalEvent(text, id) : (JSON.parse(text) as Data);
    } catch (error) {
      throw new Disconnected("The server did not answer.", { cause: error });
    }
    const error = body.error as Data | undefined;
    if (status === 401) throw new TokenNeeded(String(error?.message ?? "A token is needed."));
    if (error && (status >= 500 || status === 429)) throw new Disconnected(String(error.message));
    if (error) throw new ToolError(String(error.message));
    return answerOf((body.result ?? {}) as Data);
  }

  openLink(url: string): void {
    window.open(url, "_blank", "noopener,noreferrer");
  }

  async download(name: string, text: string): Promise<boolean> {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
    return true;
  }

  opening(place: Place): void {
    document.title = TITLE;
    // At once, so that going back leads here even while the conversation is loaded.
    const here = named();
    if (here.conversation !== place.conversation || here.agent !== place.agent) history.pushState(null, "", address(place));
  }

  showed(place: Place, title: string): void {
    document.title = title;
    history.replaceState(null, "", address(place));
  }
}

/** What the page's address names. */
function named(): Place {
  const given = new URLSearchParams(location.hash.slice(1));
  return { conversation: given.get("conversation") ?? "", agent: given.get("agent") ?? "" };
}

function address(place: Place): string {
  const shown = new URLSearchParams();
  if (place.conversation) shown.set("conversation", place.conversation);
  if (place.agent) shown.set("agent", place.agent);
  return `#${shown}`;
}

/** For this tab only: it is gone when the tab is closed. */
export function saveToken(token: string): void {
  sessionStorage.setItem(TOKEN, token.trim());
}

function finalEvent(stream: string, id: number): Data {
  for (const event of stream.split(/\r?\n\r?\n/)) {
    const data = event
      .split(/\r?\n/)
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n");
    if (!data) continue;
    const message = JSON.parse(data) as Data;
    if (message.id === id) return message;
  }
  throw new Error("the stream ended without an answer");
}
