/** What the viewer needs from its surroundings: an MCP host that shows it, or our own HTTP server. */

export type Data = Record<string, unknown>;

export interface Answer {
  text: string;
  data: Data;
}

/** Which conversation to show; without one, which agent's conversations to choose from. */
export interface Place {
  conversation: string;
  agent: string;
}

/** The tool answered with an error. The message is the server's, for a reader. */
export class ToolError extends Error {}

/** No answer came: the connection or the host failed, and what was asked for may or may not have happened. */
export class Disconnected extends Error {}

/** The server wants a token, or another one. */
export class TokenNeeded extends Error {}

export interface Host {
  /** Connects, and calls `open` now and whenever another conversation is to be shown. */
  start(open: (place: Place) => void): Promise<void>;
  /** Calls a tool of our server. Raises ToolError, Disconnected or TokenNeeded. */
  call(tool: string, args: Data): Promise<Answer>;
  /** Opens a web page outside of the viewer. */
  openLink(url: string): void;
  /** Offers a text as a file; false where that is not possible. */
  download(name: string, text: string): Promise<boolean>;
  /** The viewer is about to show another conversation; what it knows of it comes with `showed`. */
  opening(place: Place): void;
  /** The viewer shows another conversation now. */
  showed(place: Place, title: string): void;
  /** Switches between a part of the chat and the whole window; undefined where there is no such choice. */
  toggleFullscreen?: () => Promise<void>;
}

export function answerOf(result: Data): Answer {
  const content = Array.isArray(result.content) ? (result.content as Data[]) : [];
  const text = content.map((part) => (typeof part.text === "string" ? part.text : "")).join("\n");
  if (result.isError) throw new ToolError(text || "The server reported an error without saying which.");
  return { text, data: (result.structuredContent ?? {}) as Data };
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
