/** What a search found so far, in one log. A new object for every change. */
export interface Found {
  /** What was looked for, "" for nothing. */
  text: string;
  /** Numbers of lines, in order. */
  lines: readonly number[];
  /** All was looked at. */
  whole: boolean;
  busy: boolean;
  error: string;
  /** Which of the lines is looked at, -1 for none. */
  at: number;
  /** What is marked in lines that are shown; undefined for nothing, or what this browser can't. */
  marks: RegExp | undefined;
}

export const nothing: Found = { text: "", lines: [], whole: true, busy: false, error: "", at: -1, marks: undefined };

/** Asks the server for a page of what a log has. Its errors are for people. */
export type Ask = (text: string, pattern: boolean, token: string, signal: AbortSignal) => Promise<{ lines: number[]; next: string }>;

/** How many lines one search finds at least before it waits to be asked for more. */
const atOnce = 1000;
/** How many pages it asks for: each is bounded by the server. */
const maxPages = 500;

/** The search of one reader through one log. The server looks; a browser has a part of the lines only. */
export class Search {
  #found = nothing;
  #pattern = false;
  #next = "";
  #abort: AbortController | undefined;
  readonly #listeners = new Set<() => void>();
  readonly #ask: Ask;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#abort?.abort();
    };
  };

  snapshot = (): Found => this.#found;

  /**
   * Looks for a text, or a pattern, and goes to the first line from a number on, as
   * soon as there is one; the rest is looked for meanwhile. For "", forgets what was
   * found.
   */
  look(text: string, pattern: boolean, from: number): Promise<number | undefined> {
    this.#abort?.abort();
    this.#pattern = pattern;
    this.#next = "";
    this.#set({ ...nothing, text, marks: text ? marksOf(text, pattern) : undefined });
    if (!text) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const first = () => {
        if (this.#found.text === text && this.#found.at < 0 && this.#found.lines.length > 0) {
          const after = this.#found.lines.findIndex((seq) => seq >= from);
          this.#set({ ...this.#found, at: Math.max(0, after) });
        }
        resolve(this.#found.lines[this.#found.at]);
      };
      void this.#more((found) => found.some((seq) => seq >= from) && first()).then(first);
    });
  }

  /** Goes on by one, or back; around at both ends. Returns the line that is looked at now. */
  async step(by: 1 | -1): Promise<number | undefined> {
    const { at, lines, whole, busy } = this.#found;
    if (lines.length === 0) return undefined;
    if (by > 0 && at === lines.length - 1 && !whole && !busy) await this.#more();
    const count = this.#found.lines.length;
    this.#set({ ...this.#found, at: (at + by + count) % count });
    return this.#found.lines[this.#found.at];
  }

  /** Asks on until so many more are found, or all was looked at. */
  async #more(each: (lines: number[]) => void = () => undefined): Promise<void> {
    const abort = new AbortController();
    this.#abort = abort;
    this.#set({ ...this.#found, busy: true, error: "" });
    const { text } = this.#found;
    const enough = this.#found.lines.length + atOnce;
    const asked = askedFor(text, this.#pattern);
    try {
      for (let pages = 0; pages < maxPages && this.#found.lines.length < enough; pages++) {
        const page = await this.#ask(asked.text, asked.pattern, this.#next, abort.signal);
        if (abort.signal.aborted) return;
        this.#next = page.next;
        this.#set({ ...this.#found, lines: [...this.#found.lines, ...page.lines], whole: !page.next });
        each(page.lines);
        if (!page.next) break;
      }
      this.#set({ ...this.#found, busy: false });
    } catch (error) {
      if (!abort.signal.aborted) this.#set({ ...this.#found, busy: false, whole: true, error: error instanceof Error ? error.message : String(error) });
    }
  }

  #set(found: Found): void {
    this.#found = found;
    for (const listener of this.#listeners) listener();
  }
}

/** What a reader is told of a search. */
export function told(found: Found): string {
  if (found.error) return found.error;
  if (found.busy && found.lines.length === 0) return "Searching…";
  if (!found.text) return "";
  if (found.lines.length === 0) return found.whole ? "Not found" : "Not found so far";
  return `${(found.at + 1).toLocaleString("en")} of ${found.lines.length.toLocaleString("en")}${found.whole ? "" : "+"}`;
}

/** How the server is asked for it: a text in small letters alone is found in capitals too. */
export function askedFor(text: string, pattern: boolean): { text: string; pattern: boolean } {
  const loose = !pattern && text === text.toLowerCase() && text !== text.toUpperCase();
  return loose ? { text: `(?i)${escape(text)}`, pattern: true } : { text, pattern };
}

/** What is marked in the lines that have it; undefined for what this browser can't read. */
export function marksOf(text: string, pattern: boolean): RegExp | undefined {
  try {
    const loose = !pattern && text === text.toLowerCase();
    const insensitive = pattern && text.startsWith("(?i)");
    return new RegExp(pattern ? text.replace(/^\(\?i\)/, "") : escape(text), loose || insensitive ? "gi" : "g");
  } catch {
    return undefined; // the server's patterns are others in places
  }
}

function escape(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}
