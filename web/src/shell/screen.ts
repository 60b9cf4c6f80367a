/**
 * A terminal's screen, as much of one as a recording needs: text, colours, the
 * cursor's movements, erasing, scrolling. What it does not know it leaves out.
 * https://vt100.net/emu/dec_ansi_parser
 */

export interface Cell {
  text: string;
  /** Class names, "" for plain. */
  look: string;
}

/** Lines that were scrolled off the top are kept up to this many. */
const maxScrolledOff = 2000;
/** No window is larger; the server refuses one that is. */
const maxSide = 1000;
/** A sequence that goes on for longer is none. */
const maxSequence = 256;

const names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

interface Pen {
  colour: string;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

const plain: Pen = { colour: "", bold: false, dim: false, italic: false, underline: false };

export class Screen {
  private lines: Cell[][] = [];
  private scrolled: Cell[][] = [];
  private row = 0;
  private column = 0;
  private saved = { row: 0, column: 0 };
  private top = 0;
  private bottom: number;
  private pen: Pen = plain;
  private look = "";
  private pending = "";
  /** The lines under a full-screen program. */
  private under: Cell[][] | undefined;

  constructor(
    private columns: number,
    private rows: number,
  ) {
    this.columns = side(columns);
    this.rows = side(rows);
    this.bottom = this.rows - 1;
    this.lines = this.blank();
  }

  /** All that can be seen, what was scrolled off first; without empty lines at the end. */
  snapshot(): Cell[][] {
    const all = [...this.scrolled, ...this.lines];
    let end = all.length;
    while (end > 1 && (all[end - 1] ?? []).every((cell) => cell.text.trim() === "")) end--;
    return all.slice(0, end);
  }

  resize(columns: number, rows: number) {
    this.columns = side(columns);
    const wanted = side(rows);
    while (this.lines.length > wanted && this.row < this.lines.length - 1) this.lines.pop();
    while (this.lines.length > wanted) this.scrollOff(this.lines.shift());
    while (this.lines.length < wanted) this.lines.push([]);
    this.rows = wanted;
    this.top = 0;
    this.bottom = wanted - 1;
    this.moveTo(this.row, this.column);
  }

  write(text: string) {
    const all = this.pending + text;
    this.pending = "";
    for (let i = 0; i < all.length; ) {
      const code = all.codePointAt(i) ?? 0;
      if (code === 0x1b) {
        const length = this.escape(all.slice(i, i + maxSequence));
        if (length === 0) {
          this.pending = all.slice(i); // goes on in what comes next
          return;
        }
        i += length;
        continue;
      }
      const char = String.fromCodePoint(code);
      i += char.length;
      if (code < 0x20 || code === 0x7f) this.control(code);
      else this.put(char);
    }
  }

  private blank(): Cell[][] {
    return Array.from({ length: this.rows }, () => []);
  }

  private line(): Cell[] {
    return (this.lines[this.row] ??= []);
  }

  private moveTo(row: number, column: number) {
    this.row = Math.min(Math.max(row, 0), this.rows - 1);
    this.column = Math.min(Math.max(column, 0), this.columns - 1);
  }

  private put(char: string) {
    if (this.column >= this.columns) {
      this.column = 0;
      this.feed();
    }
    const line = this.line();
    while (line.length < this.column) line.push({ text: " ", look: "" });
    line[this.column] = { text: char, look: this.look };
    this.column++; // one past the end: the next character wraps
  }

  private control(code: number) {
    switch (code) {
      case 0x08:
        this.moveTo(this.row, this.column - 1);
        break;
      case 0x09:
        this.moveTo(this.row, (Math.floor(this.column / 8) + 1) * 8);
        break;
      case 0x0a:
      case 0x0b:
      case 0x0c:
        this.feed();
        break;
      case 0x0d:
        this.column = 0;
        break;
    }
  }

  private feed() {
    if (this.row === this.bottom) this.scroll(1);
    else if (this.row < this.rows - 1) this.row++;
  }

  private scroll(by: number) {
    for (let n = 0; n < Math.min(by, this.rows); n++) {
      const [gone] = this.lines.splice(this.top, 1);
      if (this.top === 0 && !this.under) this.scrollOff(gone);
      this.lines.splice(this.bottom, 0, []);
    }
    for (let n = 0; n < Math.min(-by, this.rows); n++) {
      this.lines.splice(this.bottom, 1);
      this.lines.splice(this.top, 0, []);
    }
  }

  private scrollOff(line: Cell[] | undefined) {
    if (line) this.scrolled.push(line);
    if (this.scrolled.length > maxScrolledOff) this.scrolled.shift();
  }

  /** Does what a sequence says; returns its length, 0 for one that is not whole yet. */
  private escape(text: string): number {
    const kind = text[1];
    if (kind === undefined) return 0;
    if (kind === "[") {
      const match = /^\x1b\[([0-?]*)([ -/]*)([@-~])/.exec(text);
      if (!match) return waits(text, /^\[[0-?]*[ -/]*$/);
      if (!match[2]) this.sequence(match[1] ?? "", match[3] ?? "");
      return match[0].length;
    }
    if (kind === "]" || kind === "P" || kind === "_" || kind === "^") {
      const match = /^\x1b[\]P_^][^\x07\x1b]*(\x07|\x1b\\)/.exec(text);
      return match ? match[0].length : waits(text, /^[\]P_^][^\x07\x1b]*\x1b?$/);
    }
    if ("()*+#% ".includes(kind)) return text.length > 2 ? 3 : 0; // character sets
    switch (kind) {
      case "7":
        this.saved = { row: this.row, column: this.column };
        break;
      case "8":
        this.moveTo(this.saved.row, this.saved.column);
        break;
      case "M":
        if (this.row === this.top) this.scroll(-1);
        else this.moveTo(this.row - 1, this.column);
        break;
      case "D":
        this.feed();
        break;
      case "E":
        this.column = 0;
        this.feed();
        break;
      case "c":
        this.lines = this.blank();
        this.moveTo(0, 0);
        this.style([0]);
        break;
    }
    return 2;
  }

  private sequence(parameters: string, final: string) {
    if (/^[?<=>]/.test(parameters)) {
      if (/^\?(47|1047|1049)$/.test(parameters)) this.alternate(final === "h");
      return;
    }
    const given = parameters.split(/[;:]/).map((p) => Math.min(Number.parseInt(p || "0", 10) || 0, 100_000));
    const first = given[0] ?? 0;
    const n = Math.min(Math.max(first, 1), maxSide);
    switch (final) {
      case "A":
        this.moveTo(this.row - n, this.column);
        break;
      case "B":
      case "e":
        this.moveTo(this.row + n, this.column);
        break;
      case "C":
      case "a":
        this.moveTo(this.row, this.column + n);
        break;
      case "D":
        this.moveTo(this.row, this.column - n);
        break;
      case "E":
        this.moveTo(this.row + n, 0);
        break;
      case "F":
        this.moveTo(this.row - n, 0);
        break;
      case "G":
      case "`":
        this.moveTo(this.row, n - 1);
        break;
      case "d":
        this.moveTo(n - 1, this.column);
        break;
      case "H":
      case "f":
        this.moveTo(n - 1, Math.max(given[1] ?? 1, 1) - 1);
        break;
      case "J":
        this.eraseLines(first);
        break;
      case "K":
        this.eraseLine(first);
        break;
      case "L":
        this.shift(n, true);
        break;
      case "M":
        this.shift(n, false);
        break;
      case "P":
        this.line().splice(this.column, n);
        break;
      case "@":
        if (this.line().length > this.column) this.line().splice(this.column, 0, ...spaces(n));
        this.line().length = Math.min(this.line().length, this.columns);
        break;
      case "X":
        for (let c = this.column; c < Math.min(this.column + n, this.line().length); c++) this.line()[c] = { text: " ", look: "" };
        break;
      case "S":
        this.scroll(n);
        break;
      case "T":
        this.scroll(-n);
        break;
      case "m":
        this.style(given);
        break;
      case "r":
        this.top = Math.min(n - 1, this.rows - 1);
        this.bottom = Math.min(Math.max((given[1] ?? 0) || this.rows, this.top + 1), this.rows) - 1;
        this.moveTo(0, 0);
        break;
      case "s":
        this.saved = { row: this.row, column: this.column };
        break;
      case "u":
        this.moveTo(this.saved.row, this.saved.column);
        break;
    }
  }

  private alternate(on: boolean) {
    if (on === (this.under !== undefined)) return;
    if (on) {
      this.under = this.lines;
      this.saved = { row: this.row, column: this.column };
      this.lines = this.blank();
    } else {
      this.lines = this.under ?? this.blank();
      this.under = undefined;
      while (this.lines.length < this.rows) this.lines.push([]);
      this.lines.length = this.rows;
      this.moveTo(this.saved.row, this.saved.column);
    }
    this.top = 0;
    this.bottom = this.rows - 1;
  }

  private eraseLine(what: number) {
    const line = this.line();
    if (what === 0) line.length = Math.min(line.length, this.column);
    else if (what === 1) for (let c = 0; c <= Math.min(this.column, line.length - 1); c++) line[c] = { text: " ", look: "" };
    else line.length = 0;
  }

  private eraseLines(what: number) {
    this.eraseLine(what);
    const [from, to] = what === 0 ? [this.row + 1, this.rows] : what === 1 ? [0, this.row] : [0, this.rows];
    for (let r = from; r < to; r++) this.lines[r] = [];
    if (what === 3) this.scrolled = [];
  }

  private shift(n: number, insert: boolean) {
    if (this.row < this.top || this.row > this.bottom) return;
    const top = this.top;
    const under = this.under;
    this.top = this.row;
    this.under ??= []; // lines that are deleted are not scrolled off
    this.scroll(insert ? -n : n);
    this.top = top;
    this.under = under;
  }

  private style(codes: number[]) {
    let pen = { ...this.pen };
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i] ?? 0;
      if (code === 0) pen = { ...plain };
      else if (code === 1) pen.bold = true;
      else if (code === 2) pen.dim = true;
      else if (code === 3) pen.italic = true;
      else if (code === 4) pen.underline = true;
      else if (code === 22) pen.bold = pen.dim = false;
      else if (code === 23) pen.italic = false;
      else if (code === 24) pen.underline = false;
      else if (code >= 30 && code <= 37) pen.colour = `ansi-${names[code - 30] ?? ""}-fg`;
      else if (code >= 90 && code <= 97) pen.colour = `ansi-bright-${names[code - 90] ?? ""}-fg`;
      else if (code === 39) pen.colour = "";
      else if (code === 38 || code === 48) {
        // Of 256 colours the first 16 are these; the others, and backgrounds, are left out.
        const index = codes[i + 1] === 5 ? (codes[i + 2] ?? -1) : -1;
        i += codes[i + 1] === 5 ? 2 : codes[i + 1] === 2 ? 4 : 0;
        if (code === 38) pen.colour = index >= 0 && index < 8 ? `ansi-${names[index] ?? ""}-fg` : index >= 8 && index < 16 ? `ansi-bright-${names[index - 8] ?? ""}-fg` : "";
      }
    }
    this.pen = pen;
    this.look = [pen.colour, pen.bold && "ansi-bold", pen.dim && "ansi-dim", pen.italic && "ansi-italic", pen.underline && "ansi-underline"]
      .filter(Boolean)
      .join(" ");
  }
}

function side(n: number): number {
  return Math.min(Math.max(Math.trunc(n) || 1, 1), maxSide);
}

function spaces(n: number): Cell[] {
  return Array.from({ length: n }, () => ({ text: " ", look: "" }));
}

/** The length of a sequence that is not whole: none, unless it can't become so. */
function waits(text: string, beginning: RegExp): number {
  return text.length < maxSequence && beginning.test(text.slice(1)) ? 0 : 1;
}
