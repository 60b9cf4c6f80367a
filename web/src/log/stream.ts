import type { Line } from "./fold";

/** What is known of a log at one moment. A new object for every change. */
export interface LogState {
  lines: readonly Line[];
  attempt: string;
  connection: "connecting" | "live" | "retrying";
  /** Nothing more will come. */
  ended: boolean;
  /** Every line is there. Lines are lost when their host is. */
  complete: boolean;
}

/** The part of EventSource that a LogStream uses. */
export interface Source {
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void;
  close(): void;
}

type Open = (url: string) => Source;

/**
 * Follows one job's log. The server numbers lines per attempt and resumes after
 * the last event that the browser saw, so a broken connection loses nothing and
 * doubles nothing; a line that is there already is dropped all the same.
 * Changes are told at most once per frame.
 */
export class LogStream {
  #state: LogState = { lines: [], attempt: "", connection: "connecting", ended: false, complete: false };
  #lines: Line[] = [];
  #listeners = new Set<() => void>();
  #source: Source | undefined;
  #dirty = false;
  readonly #url: string;
  readonly #open: Open;
  readonly #frame: (run: () => void) => void;

  constructor(
    jobId: string,
    open: Open = (url) => new EventSource(url),
    frame: (run: () => void) => void = (run) => requestAnimationFrame(run),
  ) {
    this.#url = `/api/v1/jobs/${encodeURIComponent(jobId)}/log/stream`;
    this.#open = open;
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

  #connect(): void {
    // A fresh connection starts at line 1; lines that are there are dropped.
    const source = this.#open(this.#url);
    this.#source = source;
    source.addEventListener("open", () => this.#set({ connection: "live" }));
    source.addEventListener("error", () => this.#set({ connection: "retrying" }));
    source.addEventListener("attempt", (event) => {
      const attempt = (JSON.parse(event.data) as { attempt_id: string }).attempt_id;
      if (attempt === this.#state.attempt) return;
      this.#lines = [];
      this.#set({ attempt, lines: [] });
    });
    source.addEventListener("line", (event) => this.#add(JSON.parse(event.data) as Line));
    source.addEventListener("complete", (event) => {
      const { complete } = JSON.parse(event.data) as { complete: boolean };
      this.#close();
      this.#set({ ended: true, complete, connection: "live", lines: this.#lines.slice() });
    });
  }

  #add(line: Line): void {
    if (line.seq !== (this.#lines.at(-1)?.seq ?? 0) + 1) return;
    this.#lines.push(line);
    if (this.#dirty) return;
    this.#dirty = true;
    this.#frame(() => {
      this.#dirty = false;
      this.#set({ lines: this.#lines.slice() });
    });
  }

  #set(change: Partial<LogState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener();
  }

  #close(): void {
    this.#source?.close();
    this.#source = undefined;
  }
}
