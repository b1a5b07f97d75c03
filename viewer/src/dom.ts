/** Building elements. Text only ever becomes a text node, and nothing here takes HTML. */

export type Child = Node | string | null | undefined | false;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, unknown> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes characters that would not be seen, or would reorder others, readable: `\u202e`. */
export function visible(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\u115f\u1160\u3164\uffa0]/gu, (character) =>
    character === "\n" ? character : `\\u${character.codePointAt(0)!.toString(16).padStart(4, "0")}`,
  );
}

export function button(label: string, action: () => unknown, attributes: Record<string, unknown> = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "btn", ...attributes, click: () => void action() }, label);
}

const CLOCK: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const DAY: Intl.DateTimeFormatOptions = { day: "numeric", month: "short" };
let format = formats(navigator.language);

function formats(locale: string, timeZone?: string) {
  const make = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat(locale, { ...options, timeZone });
  const key = make({ year: "numeric", month: "2-digit", day: "2-digit" });
  return { time: make(CLOCK), day: make(DAY), year: make({ ...DAY, year: "numeric" }), key };
}

/** How the reader's surroundings write times. Raises RangeError for what is no locale or time zone. */
export function setLocale(locale: string, timeZone?: string): void {
  format = formats(locale, timeZone);
}

/** "14:02" on the day of `previous`, else "24 Nov, 14:02". */
export function when(at: string, previous = ""): string {
  const date = readTime(at);
  if (!date) return "";
  if (dayOf(at) === dayOf(previous)) return format.time.format(date);
  const day = date.getFullYear() === new Date().getFullYear() ? format.day : format.year;
  return `${day.format(date)}, ${format.time.format(date)}`;
}

export function dayOf(at: string): string {
  const date = readTime(at);
  return date ? format.key.format(date) : "";
}

/** Letta's times are in UTC, also where they do not say so. */
export function readTime(at: string): Date | null {
  if (!at) return null;
  const date = new Date(/(?:Z|[+-]\d\d:?\d\d)$/.test(at) ? at : `${at}Z`);
  return Number.isNaN(date.getTime()) ? null : date;
}
