// Builds src/ into one HTML file without any reference to another file, as MCP Apps and our own server need it.
// `--outfile` says where to; the default is the file that ships in the Python package. `--host` builds the test host.
import { build } from "esbuild";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const LARGEST = 150_000;
const here = fileURLToPath(new URL(".", import.meta.url));
const { values } = parseArgs({ options: { outfile: { type: "string" }, host: { type: "boolean", default: false } } });
const shared = { bundle: true, minify: true, write: false, format: "iife", target: "es2022", legalComments: "none", absWorkingDir: here };

async function bundled(entry) {
  const result = await build({ ...shared, entryPoints: [entry] });
  return result.outputFiles[0].text;
}

if (values.host) {
  // The official host side of MCP Apps, for the browser tests: too large and too little ours to be committed.
  await writeFile(values.outfile, await bundled("test-host/host.ts"));
} else {
  const [page, style, script] = await Promise.all([
    readFile(`${here}src/index.html`, "utf8"),
    bundled("src/style.css"),
    bundled("src/main.ts"),
  ]);
  // "</script" inside a string would end the element; functions, because "$&" in a replacement has a meaning.
  const html = page
    .replace("/* style */", () => style.trim())
    .replace("/* script */", () => script.trim().replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--"));
  if (Buffer.byteLength(html) >= LARGEST) throw new Error(`the viewer has ${Buffer.byteLength(html)} bytes, at most ${LARGEST} are allowed`);
  await writeFile(values.outfile ?? `${here}../src/letta_conversations_mcp/server/viewer/viewer.html`, html);
  console.log(`${Buffer.byteLength(html)} bytes`);
}
