import { Outline, type Section } from "./outline";

/** One line of a job's log as the server sends it. */
export interface Line {
  seq: number;
  at: string;
  stream: "stdout" | "stderr" | "system" | "step";
  step: number;
  group?: number;
  text: string;
}

/** Lines that the server can't read any more, both ends included. */
export interface Damage {
  first: number;
  last: number;
}

/** What stands for damaged lines that are looked at: they have their numbers. */
export function holes({ first, last }: Damage, most = Infinity): Line[] {
  const count = Math.max(0, Math.min(last - first + 1, most));
  const told = `lines ${first} to ${last} are damaged on the server and can't be read`;
  return Array.from({ length: count }, (_, i) => ({ seq: first + i, at: "", stream: "system", step: 0, text: i === 0 ? told : "" }));
}

/** What is known of a log at one moment. A new object for every change. */
export interface LogState {
  /** The number of the newest line: there are as many. */
  last: number;
  sections: readonly Section[];
  /** Up to which line they are known. */
  outlined: number;
  attempt: string;
  connection: "connecting" | "live" | "retrying";
  /** Nothing more will come. */
  ended: boolean;
  /** Every line is there. Lines are lost when their host is. */
  complete: boolean;
  /** Why lines could not be read, "" while they can. */
  fault: string;
  /** Grows with every line that comes: what is shown may be there now. */
  version: number;
}

/** The part of EventSource that a LogModel uses. */
export interface Source {
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void;
  close(): void;
}

/** What the server knows of a log's sections so far. */
export interface OutlineAnswer {
  attempt_id: string;
  /** Up to which line it has looked. */
  lines: number;
  sections: Section[] | null;
}

/** What a LogModel asks the server. */
export interface Server {
  open(jobId: string, tail: number): Source;
  lines(jobId: string, from: number, limit: number, signal: AbortSignal): Promise<Line[]>;
  outline(jobId: string, signal: AbortSignal): Promise<OutlineAnswer>;
}

/** How many lines are fetched at once, and how many such pages are kept. */
export const pageLines = 250;
const maxPages = 400;
/** How many pages are on their way at once. */
const maxFetches = 4;
/** How many of the last lines the stream begins with. */
const tailLines = 500;
/** How many lines wait for the outline. */
const maxAhead = 20_000;
/** How long until what failed is tried again, in ms. */
const retryAfter = 2000;

/**
 * A job's log, of which the browser has only what is looked at: the stream brings its
 * end and what comes, pages are fetched where somebody scrolls, and the server
 * outlines the rest. A log of a million lines takes no more memory than one of a
 * hundred thousand. Changes are told at most once per frame.
 */
export class LogModel {
  #state: LogState = { last: 0, sections: [], outlined: 0, attempt: "", connection: "connecting", ended: false, complete: false, fault: "", version: 0 };
  readonly #listeners = new Set<() => void>();
  readonly #outline = new Outline();
  /** By number, in the order in which they were used last. */
  readonly #pages = new Map<number, Map<number, Line>>();
  readonly #fetches = new Map<number, AbortController>();
  /** Lines of the stream that the outline has yet to reach. */
  #ahead: Line[] = [];
  #outlining: AbortController | undefined;
  #source: Source | undefined;
  #dirty = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  readonly #jobId: string;
  readonly #server: Server;
  readonly #frame: (run: () => void) => void;

  constructor(jobId: string, server: Server = overHTTP, frame: (run: () => void) => void = (run) => requestAnimationFrame(run)) {
    this.#jobId = jobId;
    this.#server = server;
    this.#frame = frame;
  }

  /** Starts on the first listener, ends with the last one. For useSyncExternalStore. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    if (!this.#source && !this.#state.ended) this.#connect();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#close();
    };
  };

  snapshot = (): LogState => this.#state;

  /** A line, if the browser has it. */
  line(seq: number): Line | undefined {
    return this.#pages.get(pageOf(seq))?.get(seq);
  }

  /** Has the lines of a range fetched that are not there; what was wanted before and isn't any more is given up. */
  want(from: number, to: number): void {
    const first = pageOf(Math.max(1, from));
    const last = pageOf(Math.min(to, this.#state.last));
    for (const [page, abort] of this.#fetches) {
      if (page < first || page > last) {
        abort.abort();
        this.#fetches.delete(page);
      }
    }
    for (let page = first; page <= last && this.#fetches.size < maxFetches; page++) {
      if (!this.#fetches.has(page) && this.#lacks(page)) void this.#fetch(page);
    }
  }

  #lacks(page: number): boolean {
    const have = this.#pages.get(page);
    if (!have) return true;
    this.#pages.delete(page); // used last now
    this.#pages.set(page, have);
    return have.size < Math.min(pageLines, this.#state.last - page * pageLines);
  }

  async #fetch(page: number): Promise<void> {
    const abort = new AbortController();
    this.#fetches.set(page, abort);
    const attempt = this.#state.attempt;
    try {
      const lines = await this.#server.lines(this.#jobId, page * pageLines + 1, pageLines, abort.signal);
      if (abort.signal.aborted || attempt !== this.#state.attempt) return;
      for (const line of lines) this.#keep(line);
      this.#changed({ fault: "" });
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#changed({ fault: error instanceof Error ? error.message : String(error) });
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined;
        this.#changed({}); // who shows lines wants them again
      }, retryAfter);
    } finally {
      if (this.#fetches.get(page) === abort) this.#fetches.delete(page);
    }
  }

  #keep(line: Line): void {
    const page = pageOf(line.seq);
    let have = this.#pages.get(page);
    if (!have) {
      have = new Map();
      this.#pages.set(page, have);
      const oldest = this.#pages.keys().next();
      if (this.#pages.size > maxPages && !oldest.done) this.#pages.delete(oldest.value);
    }
    have.set(line.seq, line);
  }

  #connect(): void {
    const source = this.#server.open(this.#jobId, tailLines);
    this.#source = source;
    source.addEventListener("open", () => this.#set({ connection: "live" }));
    source.addEventListener("error", () => this.#set({ connection: "retrying" }));
    source.addEventListener("attempt", (event) => this.#begin((JSON.parse(event.data) as { attempt_id: string }).attempt_id));
    source.addEventListener("line", (event) => this.#add(JSON.parse(event.data) as Line));
    source.addEventListener("damaged", (event) => {
      for (const line of holes(JSON.parse(event.data) as Damage)) this.#add(line);
    });
    // To ask again is no use.
    source.addEventListener("fault", (event) => {
      this.#source?.close();
      this.#source = undefined;
      this.#set({ ended: true, complete: false, connection: "live", fault: (JSON.parse(event.data) as { message: string }).message });
    });
    source.addEventListener("complete", (event) => {
      const { complete } = JSON.parse(event.data) as { complete: boolean };
      this.#source?.close();
      this.#source = undefined;
      this.#set({ ended: true, complete, connection: "live" });
    });
  }

  /** Another attempt's lines begin at 1. */
  #begin(attempt: string): void {
    if (attempt === this.#state.attempt) return;
    this.#forget();
    this.#pages.clear();
    this.#ahead = [];
    this.#outline.reset([], 0);
    this.#set({ attempt, last: 0, sections: [] });
  }

  /** Takes a line of the stream. Those that are there already are dropped. */
  #add(line: Line): void {
    if (line.seq <= this.#state.last) return;
    this.#state = { ...this.#state, last: line.seq };
    this.#keep(line);
    if (this.#outline.last + 1 === line.seq) this.#outline.add(line);
    else if (this.#outline.last < line.seq) this.#await(line);
    this.#changed({});
  }

  /** Keeps a line until the outline has come so far, and has the server outline the rest. */
  #await(line: Line): void {
    if (this.#ahead.length === maxAhead) this.#ahead = []; // the server has them by now
    this.#ahead.push(line);
    if (this.#outlining) return;
    this.#outlining = new AbortController();
    void this.#outlineTo(this.#outlining);
  }

  async #outlineTo(abort: AbortController): Promise<void> {
    const over = () => abort.signal.aborted;
    try {
      for (let first = this.#ahead[0]; first && this.#outline.last + 1 < first.seq; first = this.#ahead[0]) {
        const answer = await this.#server.outline(this.#jobId, abort.signal);
        if (over()) return;
        if (answer.attempt_id !== this.#state.attempt || answer.lines <= this.#outline.last) {
          await new Promise((done) => setTimeout(done, retryAfter)); // it is behind the stream
          if (over()) return;
          continue;
        }
        this.#outline.reset(answer.sections ?? [], answer.lines);
        this.#ahead = this.#ahead.filter((line) => line.seq > this.#outline.last);
        this.#changed({});
      }
      for (const line of this.#ahead) this.#outline.add(line);
      this.#ahead = [];
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#ahead = []; // what comes next asks once more
      this.#changed({ fault: error instanceof Error ? error.message : String(error) });
    } finally {
      if (this.#outlining === abort) this.#outlining = undefined;
    }
    this.#changed({});
  }

  #changed(change: Partial<LogState>): void {
    this.#state = { ...this.#state, ...change };
    if (this.#dirty) return;
    this.#dirty = true;
    this.#frame(() => {
      this.#dirty = false;
      this.#set({});
    });
  }

  #set(change: Partial<LogState>): void {
    this.#state = { ...this.#state, sections: this.#outline.sections.slice(), outlined: this.#outline.last, version: this.#state.version + 1, ...change };
    for (const listener of this.#listeners) listener();
  }

  #forget(): void {
    for (const abort of this.#fetches.values()) abort.abort();
    this.#fetches.clear();
    this.#outlining?.abort();
    this.#outlining = undefined;
    clearTimeout(this.#retry);
    this.#retry = undefined;
  }

  #close(): void {
    this.#forget();
    this.#ahead = [];
    this.#source?.close();
    this.#source = undefined;
  }
}

function pageOf(seq: number): number {
  return Math.floor((seq - 1) / pageLines);
}

const overHTTP: Server = {
  open: (jobId, tail) => new EventSource(`${logURL(jobId)}/stream?tail=${tail}`),
  lines: async (jobId, from, limit, signal) => {
    const response = await fetch(`${logURL(jobId)}?from=${from}&limit=${limit}`, { signal });
    if (!response.ok) throw new Error(await whyOf(response));
    return (await response.text())
      .split("\n")
      .filter(Boolean)
      .flatMap((text) => {
        const line = JSON.parse(text) as Line & { damaged_from?: number };
        return line.damaged_from ? holes({ first: line.damaged_from, last: line.seq }, limit) : [line];
      });
  },
  outline: async (jobId, signal) => {
    const response = await fetch(`${logURL(jobId)}/outline`, { signal });
    if (!response.ok) throw new Error(await whyOf(response));
    return (await response.json()) as OutlineAnswer;
  },
};

function logURL(jobId: string): string {
  return `/api/v1/jobs/${encodeURIComponent(jobId)}/log`;
}

async function whyOf(response: Response): Promise<string> {
  try {
    return ((await response.json()) as { message?: string }).message ?? response.statusText;
  } catch {
    return response.statusText || `status ${response.status}`;
  }
}
