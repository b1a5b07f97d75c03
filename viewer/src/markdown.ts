/**
 * Markdown as elements. `marked` only splits the text into tokens; each becomes an element of a fixed list, with text
 * nodes in it. HTML in a message stays visible as text, images become links, and only web and mail addresses are links.
 */
import { Lexer, type Token, type Tokens } from "marked";
import { h } from "./dom";

const LONGEST = 200_000;
const DEEPEST = 40;

export function markdown(text: string, openLink: (url: string) => void): HTMLElement {
  const body = h("div", { class: "body", dir: "auto" });
  try {
    if (text.length > LONGEST) throw new RangeError("too long to be formatted");
    body.append(...blocks(new Lexer({ gfm: true, breaks: true }).lex(text), openLink, 0));
  } catch {
    body.replaceChildren(h("p", { class: "plain" }, text));
  }
  return body;
}

function blocks(tokens: Token[], openLink: (url: string) => void, depth: number): Node[] {
  if (depth > DEEPEST) return tokens.map((token) => document.createTextNode(token.raw));
  const inside = (nested: Token[] | undefined) => blocks(nested ?? [], openLink, depth + 1);
  return tokens.flatMap((token): Node[] => {
    switch (token.type) {
      case "space":
      case "def":
        return [];
      case "paragraph":
        return [h("p", {}, ...inside(token.tokens))];
      case "heading":
        // Below the headings of the page, whatever the message asks for.
        return [h("p", { class: `heading h${Math.min((token as Tokens.Heading).depth, 4)}` }, ...inside(token.tokens))];
      case "code":
        return [h("pre", { tabindex: "0" }, h("code", {}, (token as Tokens.Code).text))];
      case "blockquote":
        return [h("blockquote", {}, ...inside(token.tokens))];
      case "hr":
        return [h("hr")];
      case "list": {
        const list = token as Tokens.List;
        const items = list.items.map((item) =>
          h("li", {}, item.task && h("span", { class: "task" }, item.checked ? "☑ " : "☐ "), ...inside(item.tokens)),
        );
        return [list.ordered ? h("ol", { start: list.start === 1 ? undefined : list.start }, ...items) : h("ul", {}, ...items)];
      }
      case "table": {
        const table = token as Tokens.Table;
        const row = (cells: Tokens.TableCell[], tag: "th" | "td") =>
          h("tr", {}, ...cells.map((cell) => h(tag, { class: cell.align ?? undefined }, ...inside(cell.tokens))));
        const head = h("thead", {}, row(table.header, "th"));
        return [h("div", { class: "wide", tabindex: "0" }, h("table", {}, head, h("tbody", {}, ...table.rows.map((cells) => row(cells, "td")))))];
      }
      case "strong":
        return [h("strong", {}, ...inside(token.tokens))];
      case "em":
        return [h("em", {}, ...inside(token.tokens))];
      case "del":
        return [h("del", {}, ...inside(token.tokens))];
      case "codespan":
        return [h("code", {}, (token as Tokens.Codespan).text)];
      case "br":
        return [h("br")];
      case "link":
        return [link((token as Tokens.Link).href, inside(token.tokens), openLink)];
      case "image": {
        const image = token as Tokens.Image;
        return [link(image.href, [document.createTextNode(`[image: ${image.text || image.href}]`)], openLink)];
      }
      case "text":
        return token.tokens ? inside(token.tokens) : [document.createTextNode((token as Tokens.Text).text)];
      case "escape":
        return [document.createTextNode((token as Tokens.Escape).text)];
      case "checkbox":
        return [];
      default:
        // HTML above all: it stays what it is, a text.
        return [document.createTextNode(token.raw)];
    }
  });
}

function link(href: string, children: Node[], openLink: (url: string) => void): Node {
  const target = webAddress(href);
  if (!target) return h("span", {}, ...children, ` (${href})`);
  const element = h("a", { href: target, title: target, target: "_blank", rel: "noopener noreferrer" }, ...children);
  element.addEventListener("click", (event) => {
    event.preventDefault();
    openLink(target);
  });
  return element;
}

function webAddress(href: string): string {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}
