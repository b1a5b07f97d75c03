/**
 * A host for the browser tests: the official bridge of MCP Apps around the viewer in a sandboxed frame, and an MCP client
 * that reaches our server over HTTP. Built by the tests, never shipped.
 */
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";

const URI = "ui://letta-conversations/viewer.html";
const CSP = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'none'";

interface Seen {
  links: string[];
  contexts: unknown[];
  downloads: unknown[];
  calls: string[];
  modelTools: string[];
  ready: boolean;
}
const seen: Seen = { links: [], contexts: [], downloads: [], calls: [], modelTools: [], ready: false };
const given = new URLSearchParams(location.search);
let client: Client;
let bridge: AppBridge;

async function start(): Promise<void> {
  client = new Client(
    { name: "test-host", version: "1" },
    { capabilities: { extensions: { "io.modelcontextprotocol/ui": { mimeTypes: ["text/html;profile=mcp-app"] } } } },
  );
  await client.connect(new StreamableHTTPClientTransport(new URL(given.get("server")!)));
  const { tools } = await client.listTools();
  const visibility = (tool: (typeof tools)[number]) => ((tool._meta?.ui as { visibility?: string[] } | undefined)?.visibility ?? ["model", "app"]);
  seen.modelTools = tools.filter((tool) => visibility(tool).includes("model")).map((tool) => tool.name);
  const forApps = new Set(tools.filter((tool) => visibility(tool).includes("app")).map((tool) => tool.name));
  const page = (await client.readResource({ uri: URI })).contents[0] as { text: string; mimeType: string };
  if (page.mimeType !== "text/html;profile=mcp-app") throw new Error(page.mimeType);

  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.style.cssText = "width:100%;height:100%;border:0;display:block";
  // The policy that a host applies where a resource asks for nothing.
  frame.srcdoc = page.text.replace("<head>", `<head><meta http-equiv="Content-Security-Policy" content="${CSP}">`);
  document.body.append(frame);

  bridge = new AppBridge(
    null,
    { name: "test-host", version: "1" },
    { serverTools: {}, openLinks: {}, downloadFile: {}, updateModelContext: { text: {} } },
    { hostContext: { theme: (given.get("theme") ?? "light") as "light" | "dark", displayMode: "inline", locale: "en-GB", timeZone: "UTC", containerDimensions: { maxHeight: 2000 } } },
  );
  bridge.oncalltool = async (params) => {
    seen.calls.push(params.name);
    if (!forApps.has(params.name)) throw new Error(`${params.name} is not for apps`);
    return (await client.callTool(params, { timeout: 120_000 })) as never;
  };
  bridge.onopenlink = async ({ url }) => {
    seen.links.push(url);
    return {};
  };
  bridge.ondownloadfile = async (params) => {
    seen.downloads.push(params);
    return {};
  };
  bridge.onupdatemodelcontext = async (params) => {
    seen.contexts.push(params);
    return {};
  };
  bridge.oninitialized = async () => {
    const args = Object.fromEntries([...given].filter(([name]) => ["conversation_id", "agent"].includes(name)));
    await bridge.sendToolInput({ arguments: args });
    await show(args);
    seen.ready = true;
  };
  await bridge.connect(new PostMessageTransport(frame.contentWindow!, frame.contentWindow!));
}

async function show(args: Record<string, string>): Promise<void> {
  const result = await client.callTool({ name: "show_conversation", arguments: args });
  await bridge.sendToolResult(result as never);
}

Object.assign(window, {
  seen,
  show,
  setTheme: (theme: "light" | "dark") => bridge.setHostContext({ theme, displayMode: "inline" }),
});
start().catch((error) => {
  document.body.append(String(error?.stack ?? error));
});
