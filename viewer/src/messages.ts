/** What the server tells of a conversation, as the viewer keeps it. */
import type { Data } from "./host";

export interface Call {
  id: string;
  name: string;
  arguments: string;
  status: "pending" | "success" | "error";
  result: string;
  client_side: boolean;
  asked_by: string;
}

export interface Message {
  id: string;
  kind: string;
  at: string;
  text: string;
  calls: Call[];
  cut: boolean;
}

export interface Page {
  conversation: string;
  agent: string;
  messages: Message[];
  older: string;
  newer: string;
  pending: Call[];
  run: string;
}

export const texts = (data: Data, name: string): string => (typeof data[name] === "string" ? (data[name] as string) : "");
export const list = (data: Data, name: string): Data[] => (Array.isArray(data[name]) ? (data[name] as Data[]) : []);
export const number = (data: Data, name: string): number | undefined =>
  typeof data[name] === "number" ? (data[name] as number) : undefined;

export function readPage(data: Data): Page {
  return {
    conversation: texts(data, "conversation_id"),
    agent: texts(data, "agent_id"),
    messages: list(data, "messages").map(readMessage),
    older: texts(data, "older"),
    newer: texts(data, "newer"),
    pending: list(data, "approvals").map(readCall),
    run: texts(data, "run_id"),
  };
}

function readMessage(data: Data): Message {
  return {
    id: texts(data, "id"),
    kind: texts(data, "kind"),
    at: texts(data, "at"),
    text: texts(data, "text"),
    calls: list(data, "calls").map(readCall),
    cut: data.cut === true,
  };
}

function readCall(data: Data): Call {
  const status = texts(data, "status");
  return {
    id: texts(data, "tool_call_id"),
    name: texts(data, "name"),
    arguments: texts(data, "arguments"),
    status: status === "success" || status === "error" ? status : "pending",
    result: texts(data, "result"),
    client_side: data.client_side === true,
    asked_by: texts(data, "asked_by"),
  };
}

/** Whether two lists of calls that wait ask for the same thing. Ids alone do not tell: some models reuse them. */
export function sameCalls(one: Call[], other: Call[]): boolean {
  const key = (calls: Call[]) => JSON.stringify(calls.map((call) => [call.asked_by, call.id, call.name, call.arguments]));
  return key(one) === key(other);
}

/** A call as it would run. What cannot be shown in a tidy form without changing it is shown as it is. */
export function callText(name: string, raw: string): string {
  let parsed: unknown;
  try {
    parsed = JSON.parse(raw || "{}");
  } catch {
    return `${name}(${raw})`;
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed) || !isSame(parsed, raw || "{}")) return `${name}(${raw})`;
  const entries = Object.entries(parsed);
  if (entries.length === 0) return `${name}()`;
  const width = Math.min(Math.max(...entries.map(([key]) => key.length)), 16);
  const lines = entries.map(([key, value]) => `  ${key.padEnd(width)} = ${JSON.stringify(value, null, 2).replaceAll("\n", "\n  ")}`);
  return `${name}(\n${lines.join(",\n")}\n)`;
}

/** Whether JSON says no more and nothing else than what it was parsed to: no key twice, no number out of range. */
function isSame(parsed: object, raw: string): boolean {
  const tight = raw.replace(/("(?:[^"\\]|\\.)*")|\s+/g, (_, quoted: string | undefined) => quoted ?? "");
  const plain = tight.replace(/\\u([0-9a-fA-F]{4})/g, (escape, code: string) => {
    const character = String.fromCharCode(parseInt(code, 16));
    return JSON.stringify(character) === `"${character}"` ? character : escape.toLowerCase();
  });
  return JSON.stringify(parsed) === plain.replaceAll("\\/", "/");
}

/** A transcript for people, as a file. Every line of somebody's words is marked with "> ", so that none passes for a heading. */
export function toMarkdown(title: string, agent: string, messages: Message[]): string {
  const name = oneLine(agent);
  const who: Record<string, string> = { user: "User", assistant: name, reasoning: `${name}, reasoning`, summary: "Summary of older messages" };
  const parts = messages.map((message) => {
    const calls = message.calls.map((call) => {
      const outcome = call.status === "pending" ? "" : `\n→ ${call.status === "error" ? "failed: " : ""}${call.result}`;
      return marked(marked(`${callText(call.name || "result", call.arguments)}${outcome}`));
    });
    const head = `**${who[message.kind] ?? message.kind}** · ${message.at}`;
    return [head, message.text && marked(message.text), ...calls].filter(Boolean).join("\n\n");
  });
  return `# ${oneLine(title)}\n\n${parts.join("\n\n---\n\n")}\n`;
}

// As visible() but for tabs and what joins emoji, which a file keeps; line breaks of other kinds would end a mark.
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const escaped = (text: string): string =>
  text.replaceAll("\r\n", "\n").replace(CONTROLS, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
const marked = (text: string): string => `> ${escaped(text).replaceAll("\n", "\n> ")}`;
const oneLine = (text: string): string => escaped(text).replaceAll("\n", " ");
