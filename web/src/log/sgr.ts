/** How a text is written: what SGR says of it, as far as a page can show it. */
export interface Style {
  /** 0 to 255 of the palette, or rgb + 0x1000000; undefined: as the text around. */
  fg?: number;
  bg?: number;
  bold?: true;
  dim?: true;
  italic?: true;
  underline?: true;
  strike?: true;
  overline?: true;
  inverse?: true;
}

export const plain: Style = {};

/** What says that a colour is no number of the palette. */
export const trueColour = 0x1000000;

/** Of a sequence with more parameters, the rest is left out. */
const maxParameters = 64;

/** What a sequence makes of a style: its parameters, as in "1;38:2::255:0:0". Concealed text is shown. */
export function styled(before: Style, parameters: string): Style {
  let style: Style = { ...before };
  const given = parameters.split(";", maxParameters);
  for (let i = 0; i < given.length; i++) {
    const parts = (given[i] ?? "").split(":", maxParameters);
    const code = Number(parts[0]); // "" is 0
    if (code === 38 || code === 48 || code === 58) {
      const colon = parts.length > 1;
      const told = colon ? colourOf(parts.slice(1), true) : colourOf(given.slice(i + 1, i + 5), false);
      if (!colon) i += lengthOf(given[i + 1]);
      if (told !== undefined && code === 38) style.fg = told;
      if (told !== undefined && code === 48) style.bg = told;
    } else if (code === 0) {
      style = {};
    } else {
      set(style, code, parts[1]);
    }
  }
  return style;
}

function set(style: Style, code: number, part: string | undefined): void {
  if (code >= 30 && code <= 37) style.fg = code - 30;
  else if (code >= 90 && code <= 97) style.fg = code - 82;
  else if (code >= 40 && code <= 47) style.bg = code - 40;
  else if (code >= 100 && code <= 107) style.bg = code - 92;
  else {
    switch (code) {
      case 1:
        style.bold = true;
        break;
      case 2:
        style.dim = true;
        break;
      case 3:
        style.italic = true;
        break;
      case 4: // 4:3 is a wavy line
        if (part === "0") delete style.underline;
        else style.underline = true;
        break;
      case 21: // a double line
        style.underline = true;
        break;
      case 7:
        style.inverse = true;
        break;
      case 9:
        style.strike = true;
        break;
      case 53:
        style.overline = true;
        break;
      case 22:
        delete style.bold;
        delete style.dim;
        break;
      case 23:
        delete style.italic;
        break;
      case 24:
        delete style.underline;
        break;
      case 27:
        delete style.inverse;
        break;
      case 29:
        delete style.strike;
        break;
      case 55:
        delete style.overline;
        break;
      case 39:
        delete style.fg;
        break;
      case 49:
        delete style.bg;
        break;
    }
  }
}

/** How many parameters tell a colour, where semicolons are between them. */
function lengthOf(kind: string | undefined): number {
  if (kind === "5") return 2;
  return kind === "2" ? 4 : 0;
}

/** The colour that "5;n" or "2;r;g;b" is; between colons "2" may be followed by a colour space, mostly by none. */
function colourOf(parts: string[], colons: boolean): number | undefined {
  const from = colons && parts[0] === "2" && parts.length > 4 ? 2 : 1;
  const numbers = parts.slice(from, from + 3).map(Number); // "" is 0
  const [r = NaN, g = NaN, b = NaN] = numbers;
  const whole = (n: number) => Number.isInteger(n) && n >= 0 && n <= 255;
  if (parts[0] === "5") return whole(r) ? r : undefined;
  if (parts[0] === "2" && whole(r) && whole(g) && whole(b)) return trueColour + (r << 16) + (g << 8) + b;
  return undefined;
}

/** A theme's colours, each #rrggbb as in styles.css. */
interface Theme {
  /** What is behind text: of a line that is marked, which is nearer to the text's colours than others. */
  behind: number;
  log: number;
  ink: number;
  /** Of text on stderr. */
  warn: number;
  palette: readonly number[];
}

export const light: Theme = {
  behind: 0xefede5,
  log: 0xfbfaf6,
  ink: 0x1d2127,
  warn: 0x8a5300,
  palette: [
    0x1d2127, 0xb3261e, 0x17693a, 0x8a5300, 0x1d5fa8, 0x8b3a8f, 0x0b6b60, 0xd5d7db, 0x5b6069, 0xc62f26, 0x1b7a43, 0x966000, 0x2468b8, 0xa04aa4, 0x0d7a6e, 0xffffff,
  ],
};

export const dark: Theme = {
  behind: 0x222733,
  log: 0x0e1117,
  ink: 0xe4e6ea,
  warn: 0xf0b866,
  palette: [
    0x2b313d, 0xff8a80, 0x7fd39a, 0xf0b866, 0x8ab8f2, 0xe0a0e3, 0x7dd3c7, 0xd0d4da, 0x9aa2af, 0xffb0a8, 0xa5e5ba, 0xf7d194, 0xb3d1f8, 0xedc2ef, 0xa8e6dd, 0xffffff,
  ],
};

/** The least contrast of text (WCAG 2, AA). */
export const contrastWanted = 4.5;

/** How a style looks in both themes: class names, and the variables and decoration that they take. */
export interface Look {
  className: string;
  style: Record<string, string>;
}

const looks = new Map<string, Look>();
/** How many are kept: a job may write in any colour there is. */
const maxLooks = 1000;

/** How a text in a style looks; base is the colour of text around it. Its own colours are changed until it can be read. */
export function lookOf(style: Style, base: "ink" | "warn"): Look | undefined {
  if (style === plain || Object.keys(style).length === 0) return undefined;
  const key = `${base}${JSON.stringify(style)}`;
  let look = looks.get(key);
  if (!look) {
    if (looks.size === maxLooks) looks.clear();
    look = made(style, base);
    looks.set(key, look);
  }
  return look;
}

function made(style: Style, base: "ink" | "warn"): Look {
  const classes: string[] = [];
  const out: Record<string, string> = {};
  const inLight = colours(style, base, light);
  const inDark = colours(style, base, dark);
  if (inLight.fg !== undefined && inDark.fg !== undefined) {
    classes.push("sgr-fg");
    out["--sgr-fg-light"] = hex(inLight.fg);
    out["--sgr-fg-dark"] = hex(inDark.fg);
  }
  if (inLight.bg !== undefined && inDark.bg !== undefined) {
    classes.push("sgr-bg");
    out["--sgr-bg-light"] = hex(inLight.bg);
    out["--sgr-bg-dark"] = hex(inDark.bg);
  }
  if (style.bold) classes.push("font-bold");
  if (style.italic) classes.push("italic");
  const lines = [style.underline && "underline", style.strike && "line-through", style.overline && "overline"].filter(Boolean);
  if (lines.length > 0) out.textDecorationLine = lines.join(" ");
  return { className: classes.join(" "), style: out };
}

/** The colours that a style has in a theme; undefined: as what is around. */
export function colours(style: Style, base: "ink" | "warn", theme: Theme): { fg: number | undefined; bg: number | undefined } {
  let fg = style.fg === undefined ? undefined : rgb(style.fg, theme);
  let bg = style.bg === undefined ? undefined : rgb(style.bg, theme);
  if (style.inverse) [fg, bg] = [bg ?? theme.log, fg ?? theme[base]];
  if (fg === undefined && bg === undefined && !style.dim) return { fg, bg };
  const behind = bg ?? theme.behind;
  // Who sets the ground alone means the text to be seen on it.
  let text = fg ?? (contrast(theme[base], behind) < contrastWanted ? farthest(behind) : theme[base]);
  if (style.dim) text = mixed(text, behind, 0.4);
  return { fg: readable(text, behind), bg };
}

function rgb(colour: number, theme: Theme): number {
  if (colour >= trueColour) return colour - trueColour;
  if (colour >= 232) return (8 + (colour - 232) * 10) * 0x10101;
  if (colour < 16) return theme.palette[colour] ?? theme.ink;
  const level = (n: number) => (n % 6 === 0 ? 0 : 55 + (n % 6) * 40);
  const n = colour - 16;
  return (level(Math.floor(n / 36)) << 16) + (level(Math.floor(n / 6)) << 8) + level(n);
}

/** A colour, or as little lighter or darker as it takes to be read. */
function readable(fg: number, bg: number): number {
  const to = farthest(bg);
  for (let step = 0; step < 16; step++) {
    const some = mixed(fg, to, step / 16);
    if (contrast(some, bg) >= contrastWanted) return some;
  }
  return to;
}

function farthest(from: number): number {
  return contrast(0xffffff, from) > contrast(0, from) ? 0xffffff : 0;
}

function mixed(a: number, b: number, share: number): number {
  const part = (shift: number) => Math.round(((a >> shift) & 0xff) * (1 - share) + ((b >> shift) & 0xff) * share) << shift;
  return part(16) + part(8) + part(0);
}

/** https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio */
export function contrast(a: number, b: number): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

function luminance(colour: number): number {
  const part = (shift: number) => {
    const c = ((colour >> shift) & 0xff) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0);
}

function hex(colour: number): string {
  return `#${colour.toString(16).padStart(6, "0")}`;
}
