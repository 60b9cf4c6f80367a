import { type Cell, Screen } from "./screen";

/** An asciicast of version 2: https://docs.asciinema.org/manual/asciicast/v2/ */
export interface Cast {
  width: number;
  height: number;
  /** In the order of time; at is in seconds, as it is played. */
  events: { at: number; kind: "o" | "r"; text: string }[];
  /** How long it plays. */
  length: number;
}

/** Pauses are cut to this many seconds. */
const longestPause = 2;

/** Reads a recording. What is no event of ours is left out. */
export function parseCast(text: string): Cast {
  const [head, ...lines] = text.split("\n");
  const { width, height } = numbers(head ?? "");
  const cast: Cast = { width, height, events: [], length: 0 };
  let recorded = 0;
  for (const line of lines) {
    const event = tryJSON(line);
    if (!Array.isArray(event)) continue;
    const [at, kind, shown] = event as unknown[];
    if (typeof at !== "number" || (kind !== "o" && kind !== "r") || typeof shown !== "string") continue;
    cast.length += Math.min(Math.max(at - recorded, 0), longestPause);
    recorded = Math.max(at, recorded);
    cast.events.push({ at: cast.length, kind, text: shown });
  }
  return cast;
}

function numbers(head: string): { width: number; height: number } {
  const v = tryJSON(head) as { width?: unknown; height?: unknown } | undefined;
  return { width: typeof v?.width === "number" ? v.width : 80, height: typeof v?.height === "number" ? v.height : 24 };
}

function tryJSON(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Shows a recording as of a moment; going on costs only what is new. */
export class Playback {
  private screen: Screen;
  private next = 0;

  constructor(private readonly cast: Cast) {
    this.screen = new Screen(cast.width, cast.height);
  }

  at(seconds: number): Cell[][] {
    const before = this.cast.events[this.next - 1];
    if (before && before.at > seconds) {
      this.screen = new Screen(this.cast.width, this.cast.height);
      this.next = 0;
    }
    for (let event; (event = this.cast.events[this.next]) && event.at <= seconds; this.next++) {
      if (event.kind === "o") this.screen.write(event.text);
      else {
        const [columns, rows] = event.text.split("x").map(Number);
        this.screen.resize(columns ?? 80, rows ?? 24);
      }
    }
    return this.screen.snapshot();
  }
}

/** Cells of one look together, so that a line is few elements. */
export function runs(line: Cell[]): Cell[] {
  const out: Cell[] = [];
  for (const cell of line) {
    const last = out.at(-1);
    if (last && last.look === cell.look) last.text += cell.text;
    else out.push({ ...cell });
  }
  return out;
}
