import { addressOf } from "./links";
import { plain, type Style, styled } from "./sgr";

/** A part of a text that is written in one way. */
export interface Run {
  text: string;
  style: Style;
  /** Where a hyperlink of the terminal's leads to (OSC 8), "" for none. */
  href: string;
  /** Class names of what Nimbus itself shows of a line. */
  look?: string;
}

/** What is seen of a line. */
export interface Shown {
  runs: Run[];
  /** Of all runs. */
  text: string;
  /** Something is in the line that is not seen, more than colours. */
  altered: boolean;
}

/** How often a line may change how it is written; what follows is plain. */
const maxRuns = 2000;
/** How far right a cursor is moved without anything being written. */
const maxMoved = 500;
/** How many cells a line's cursor may fill or erase; from then on it is not moved any more. */
const maxTouched = 500_000;
/** How many characters may be joined to one. */
const maxJoined = 32;

/** What a terminal does something else with than to show it. */
const control = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g;

/**
 * What a terminal shows of a line in the end: in its colours, without titles and other
 * messages to the terminal, and with what was overwritten gone. Where a program moves
 * the cursor to other lines, the text stays in its own.
 */
export function shownOf(line: string): Shown {
  control.lastIndex = 0;
  if (!control.test(line)) return { runs: line ? [{ text: line, style: plain, href: "" }] : [], text: line, altered: false };
  const sheet = new Sheet();
  let length = line.length;
  while (line[length - 1] === "\r") length--; // \r\n only ends a line
  const text = line.slice(0, length);
  for (let at = 0; at < text.length; ) {
    control.lastIndex = at;
    const next = control.exec(text)?.index ?? text.length;
    if (next > at) sheet.put(text.slice(at, next));
    at = next === text.length ? next : next + take(text, next, sheet);
  }
  return sheet.shown();
}

/** Does what the control character at a place of a text says, and returns how long that is. */
function take(text: string, at: number, sheet: Sheet): number {
  const first = text.charAt(at);
  const second = text.charAt(at + 1);
  if (first === "\u009b") return controlled(text, at, 1, sheet);
  if (first === "\u001b" && second === "[") return controlled(text, at, 2, sheet);
  if ("\u0090\u0098\u009d\u009e\u009f".includes(first)) return message(text, at, 1, first === "\u009d", sheet);
  if (first === "\u001b") {
    if (second && "PX]^_".includes(second)) return message(text, at, 2, second === "]", sheet);
    sheet.altered = true;
    return matched(/\u001b[ -/]*[0-~]?/y, text, at).length;
  }
  if (first === "\r") sheet.moveTo(0);
  else if (first === "\b") sheet.moveBy(-1);
  else sheet.altered = true;
  return 1;
}

/** A control sequence (ECMA-48, 5.4). */
function controlled(text: string, at: number, begin: number, sheet: Sheet): number {
  const body = matched(/[0-?]*[ -/]*[@-~]?/y, text, at + begin);
  const [, parameters = "", final] = /^([0-9;:]*)([@-~])$/.exec(body) ?? [];
  const n = Math.max(1, Number.parseInt(parameters, 10) || 1);
  switch (final) {
    case "m":
      sheet.style(parameters);
      break;
    case "K":
      sheet.erase(Number.parseInt(parameters, 10) || 0);
      break;
    case "C":
    case "a":
      sheet.moveBy(n);
      break;
    case "D":
      sheet.moveBy(-n);
      break;
    case "G":
    case "`":
      sheet.moveTo(n - 1);
      break;
    default:
      sheet.altered = true;
  }
  return begin + body.length;
}

/** A message to the terminal: to BEL or ST, or to where it is broken off. Of all that there are, links are shown. */
function message(text: string, at: number, begin: number, command: boolean, sheet: Sheet): number {
  const body = matched(/[^\u0007\u0018\u001a\u001b\u009c]*/y, text, at + begin);
  const end = at + begin + body.length;
  const link = command ? /^8;[^;]*;(.*)$/s.exec(body) : null;
  if (link) sheet.link(link[1] ?? "");
  else sheet.altered = true;
  if (text.startsWith("\u001b\\", end)) return end + 2 - at;
  const over = end < text.length && text.charAt(end) !== "\u001b"; // an escape is one of its own
  return end + (over ? 1 : 0) - at;
}

function matched(pattern: RegExp, text: string, at: number): string {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? "";
}

/** What is written in one way: runs and cells that are share it. */
interface Pen {
  style: Style;
  href: string;
}

const blank: Pen = { style: plain, href: "" };

/** A character, with what is joined to it; "" for the right half of a wide one. */
interface Cell {
  text: string;
  pen: Pen;
}

/** The line as it is written. It has cells from when its cursor first moves by itself: those of most lines never do. */
class Sheet {
  altered = false;
  #pen = blank;
  #runs: { text: string; pen: Pen }[] = [];
  #cells: Cell[] | undefined;
  /** Where the cursor is, once there are cells. */
  #column = 0;
  #touched = 0;

  style(parameters: string): void {
    this.#pen = { href: this.#pen.href, style: styled(this.#pen.style, parameters) };
  }

  link(address: string): void {
    const href = addressOf(address) ?? "";
    if (address && !href) this.altered = true;
    this.#pen = { style: this.#pen.style, href };
  }

  put(text: string): void {
    if (this.#cells) for (const char of text) this.#write(this.#cells, char);
    else this.#runs.push({ text, pen: this.#pen });
  }

  moveTo(column: number): void {
    const cells = this.#celled();
    this.altered = true;
    // A job that has had its fill writes on at the line's end.
    this.#column = this.#touched > maxTouched ? cells.length : Math.min(Math.max(0, column), Math.max(cells.length, maxMoved));
  }

  moveBy(columns: number): void {
    this.#celled();
    this.moveTo(this.#column + columns);
  }

  /** Erases to the line's end (0), from its start (1), or all of it (2). */
  erase(what: number): void {
    if (what === 0 && !this.#cells) return; // there is nothing to the right
    const cells = this.#celled();
    if (this.#touched > maxTouched) return;
    this.altered ||= what !== 0 || this.#column < cells.length;
    if (what === 0) {
      this.#halve(cells, this.#column);
      cells.length = Math.min(cells.length, this.#column);
    } else if (what === 1) {
      this.#halve(cells, this.#column + 1);
      const end = Math.min(this.#column + 1, cells.length);
      cells.fill({ text: " ", pen: blank }, 0, end);
      this.#touched += end;
    } else if (what === 2) {
      cells.length = 0;
    }
  }

  /** What was written so far, in cells. */
  #celled(): Cell[] {
    if (this.#cells) return this.#cells;
    const cells: Cell[] = [];
    const pen = this.#pen;
    for (const run of this.#runs) {
      this.#pen = run.pen;
      for (const char of run.text) this.#write(cells, char);
    }
    this.#pen = pen;
    this.#runs = [];
    this.#cells = cells;
    return cells;
  }

  #write(cells: Cell[], char: string): void {
    if (char === "\t") {
      this.#column = Math.min((Math.floor(this.#column / 8) + 1) * 8, Math.max(this.#column + 1, cells.length, maxMoved));
      return;
    }
    const wide = isWide(char);
    const before = this.#column > 0 ? cells[this.#column - 1] : undefined;
    const joined = before?.text === "" ? cells[this.#column - 2] : before;
    if (joined && (joins.test(char) || joined.text.endsWith("\u200d"))) {
      // It is one with that before it; cells may be shared, so it gets its own.
      if (joined.text.length < maxJoined) cells[this.#column - (before === joined ? 1 : 2)] = { text: joined.text + char, pen: joined.pen };
      else this.altered = true;
      return;
    }
    for (; cells.length < this.#column; this.#touched++) cells.push({ text: " ", pen: blank });
    this.#halve(cells, this.#column);
    this.#halve(cells, this.#column + (wide ? 2 : 1));
    cells[this.#column++] = { text: char, pen: this.#pen };
    if (wide) cells[this.#column++] = { text: "", pen: this.#pen };
  }

  /** Of a wide character that has a border in its midst neither half is left. */
  #halve(cells: Cell[], border: number): void {
    if (cells[border]?.text !== "") return;
    cells[border] = { text: " ", pen: blank };
    cells[border - 1] = { text: " ", pen: blank };
  }

  shown(): Shown {
    const cells = this.#cells;
    if (cells) while (cells.length > 0 && isEmpty(cells.at(-1))) cells.pop();
    const runs: Run[] = [];
    let last: Pen | undefined;
    for (const { text, pen } of cells ?? this.#runs) {
      const run = runs.at(-1);
      if (run && (last === pen || runs.length === maxRuns)) run.text += text;
      else if (runs.length === maxRuns - 1) runs.push({ text, style: plain, href: "" });
      else runs.push({ text, style: pen.style, href: pen.href });
      last = pen;
    }
    return { runs, text: runs.map((run) => run.text).join(""), altered: this.altered };
  }
}

function isEmpty(cell: Cell | undefined): boolean {
  return cell?.text === " " && !cell.pen.href && Object.keys(cell.pen.style).length === 0;
}

/** What is drawn over the character before it. */
const joins = /^[\p{M}\p{Emoji_Modifier}\u200c\u200d]$/u;

/** Whether a terminal draws a character two columns wide (UAX #11). */
function isWide(char: string): boolean {
  if (char < "\u1100") return false;
  return /^(?:\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}])$/u.test(char);
}

/** A text as it was written, its control characters as keys: ^M, ^[. */
export function visible(text: string): string {
  control.lastIndex = 0;
  return text.replace(control, (c) => {
    const code = c.charCodeAt(0);
    return code < 0x80 ? `^${String.fromCharCode(code ^ 0x40)}` : `<${code.toString(16)}>`;
  });
}
