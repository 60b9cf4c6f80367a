/** A step or a group of a log, as the server outlines it. */
export interface Section {
  kind: "step" | "group";
  /** Counted from 1 within an attempt, by kind. */
  id: number;
  /** Number of the line that begins it, and that names it. */
  first: number;
  /** Number of its last line; 0 while it goes on. */
  last: number;
  title: string;
}

/** Lines that are not shown, both ends included. */
export interface Span {
  from: number;
  to: number;
}

/** What names a section for as long as the log is shown. */
export const sectionKey = (s: Pick<Section, "kind" | "id">): string => `${s.kind} ${s.id}`;

/** The lines that folded sections hide: all of each but the line that names it. In order, and apart. */
export function hiddenBy(sections: readonly Section[], folded: (s: Section) => boolean, last: number): Span[] {
  const spans = sections
    .filter(folded)
    .map((s) => ({ from: s.first + 1, to: s.last || last }))
    .filter((s) => s.to >= s.from)
    .sort((a, b) => a.from - b.from);
  const out: Span[] = [];
  for (const span of spans) {
    const before = out.at(-1);
    if (before && span.from <= before.to + 1) before.to = Math.max(before.to, span.to);
    else out.push({ ...span });
  }
  return out;
}

/** Which line is in which row, where some are hidden: found in steps, however long the log is. */
export class Layout {
  readonly rows: number;
  readonly #spans: readonly Span[];
  /** How many lines are hidden before each span. */
  readonly #before: number[] = [];

  constructor(hidden: readonly Span[], last: number) {
    this.#spans = hidden;
    let sum = 0;
    for (const span of hidden) {
      this.#before.push(sum);
      sum += span.to - span.from + 1;
    }
    this.rows = Math.max(0, last - sum);
  }

  /** The line in a row, both counted from 1 and 0. */
  line(row: number): number {
    let low = 0;
    let high = this.#spans.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      // Rows before the span: its first line, less what is hidden before it.
      if ((this.#spans[mid]?.from ?? 0) - 1 - (this.#before[mid] ?? 0) <= row) low = mid + 1;
      else high = mid;
    }
    const span = this.#spans[low - 1];
    const hidden = span ? (this.#before[low - 1] ?? 0) + span.to - span.from + 1 : 0;
    return row + 1 + hidden;
  }

  /** The row that a line is in, or that of what hides it. */
  row(line: number): number {
    let low = 0;
    let high = this.#spans.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if ((this.#spans[mid]?.from ?? 0) <= line) low = mid + 1;
      else high = mid;
    }
    const span = this.#spans[low - 1];
    if (!span) return line - 1;
    if (line <= span.to) return span.from - 2 - (this.#before[low - 1] ?? 0);
    return line - 1 - ((this.#before[low - 1] ?? 0) + span.to - span.from + 1);
  }
}

/**
 * Steps and groups of a log whose lines come in order. What the server has outlined
 * goes on with what the stream brings.
 */
export class Outline {
  readonly sections: Section[] = [];
  /** The last line that it has seen. */
  last = 0;
  #step: Section | undefined;
  readonly #open: Section[] = [];
  /** The last line reads as the end of a group; the next one tells whether it was: commands may have been stopped. */
  #ended = false;

  /** Takes what the server has found, which begins at the first line. */
  reset(sections: readonly Section[], last: number): void {
    this.sections.splice(0, Infinity, ...sections.map((s) => ({ ...s })));
    this.last = last;
    this.#open.length = 0;
    this.#step = undefined;
    this.#ended = false;
    for (const s of this.sections) {
      if (s.last && s.last < last) continue;
      if (s.kind === "group" && s.last) this.#ended = true;
      if (s.kind === "step") this.#step = s.last ? undefined : s;
      else this.#open.push(s);
    }
  }

  /** Takes the next line; one that is not the next is left out. */
  add(line: { seq: number; stream: string; step: number; group?: number; text: string }): void {
    if (line.seq !== this.last + 1) return;
    this.last = line.seq;
    if (line.stream === "step") {
      for (const s of [...this.#open, this.#step]) if (s) s.last = line.seq - 1;
      this.#open.length = 0;
      this.#ended = false;
      this.#step = { kind: "step", id: line.step, first: line.seq, last: 0, title: line.text };
      this.#push(this.#step);
      return;
    }
    if (line.stream === "system") return;
    // Lines say which group they are in: who is in another one has left the ones above it.
    const group = line.group ?? 0;
    const inner = this.#open.at(-1);
    if (this.#ended && inner) {
      if (group === inner.id) inner.last = 0;
      else this.#open.pop();
    }
    this.#ended = false;
    while (this.#open.length > 0 && group < (this.#open.at(-1)?.id ?? 0)) {
      const ended = this.#open.pop();
      if (ended) ended.last = line.seq - 1;
    }
    if (group > 0 && group !== this.#open.at(-1)?.id) {
      const begun: Section = { kind: "group", id: group, first: line.seq, last: 0, title: groupTitle(line.text) };
      this.#open.push(begun);
      this.#push(begun);
      return;
    }
    const ending = this.#open.at(-1);
    if (ending && (line.stream === "stdout" || line.stream === "stderr") && endsGroup(line.text)) {
      ending.last = line.seq;
      this.#ended = true;
    }
  }

  #push(s: Section): void {
    if (this.sections.length < maxSections) this.sections.push(s);
  }
}

/** How many sections can be folded; the server has the same bound. */
const maxSections = 5000;

/** The name of a group, of the line that begins it. */
export function groupTitle(text: string): string {
  const match = /^\s*(?:::group[^:]*::|##\[group[^\]]*\])(.*)$/i.exec(text);
  return match?.[1] ?? text;
}

/** Whether a line only ends a group, which its fold says already. */
export function endsGroup(text: string): boolean {
  return /^\s*(?:::endgroup::|##\[endgroup\])/i.test(text);
}

/** The line that a location's hash names (#L12), if any. */
export function lineOfHash(hash: string): number | undefined {
  const match = /^#L(\d{1,12})$/.exec(hash);
  return match ? Number(match[1]) : undefined;
}
