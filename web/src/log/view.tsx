import { memo, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import { type Line, LogModel, type LogState } from "./model";
import { endsGroup, groupTitle, hiddenBy, Layout, lineOfHash, type Section, sectionKey } from "./outline";
import { logs, message } from "../api";
import { type Ask, Search, told } from "./search";
import { rowHeight, scrollByRows, scrollToRow, useRows } from "./rows";
import { shownOf } from "./terminal";
import { marked as markedText, Text } from "./text";

/** The live log of a job: steps and groups fold, line numbers are links, the end is followed. */
export function LogView({ jobId }: { jobId: string }) {
  const [model] = useState(() => new LogModel(jobId));
  const log = useSyncExternalStore(model.subscribe, model.snapshot);
  const [marked, setMarked] = useState(() => lineOfHash(window.location.hash));
  const folds = useFolds(log, marked);
  const [search] = useState(() => new Search(ask(jobId)));
  const found = useSyncExternalStore(search.subscribe, search.snapshot);
  const [follow, setFollow] = useState(marked === undefined);
  const [times, setTimes] = useState(false);
  const layout = useMemo(() => new Layout(hiddenBy(log.sections, folds.folded, log.last), log.last), [log.sections, log.last, folds.folded]);
  const box = useRef<HTMLDivElement>(null);
  const rows = useRows(box, layout.rows);

  useEffect(() => {
    if (follow && box.current) scrollToRow(box.current, layout.rows, layout.rows - 1, "end");
  }, [follow, layout.rows]);

  // What is seen is fetched.
  const from = layout.rows > 0 ? layout.line(rows.first) : 1;
  const to = layout.rows > 0 ? layout.line(Math.max(rows.first, rows.end - 1)) : 0;
  useEffect(() => {
    if (to > 0) model.want(from, to);
  }, [model, from, to, log.version]);

  // A permalink is shown once its line has arrived, and what it is in is known.
  const arrived = marked !== undefined && log.last >= marked && log.outlined >= marked;
  const reveal = (seq: number) => {
    folds.open(seq);
    setMarked(seq);
    setFollow(false);
  };
  useEffect(() => {
    if (arrived && box.current) scrollToRow(box.current, layout.rows, layout.row(marked), "center");
    // Only when the line arrives or another one is marked, not on each new line.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [arrived, marked]);

  const mark = (seq: number) => {
    window.history.replaceState(null, "", `#L${seq}`);
    reveal(seq);
  };

  return (
    <section aria-label="Log" className="flex min-h-[22rem] flex-1 flex-col overflow-hidden rounded-lg border border-line bg-log">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-1 border-b border-line bg-panel px-3 py-1.5 text-sm">
        <h2 className="font-semibold">Log</h2>
        <p role="status" data-testid="log-status" className="text-quiet">
          {standing(log)}
        </p>
        <SearchBox
          search={search}
          from={from}
          onFound={(seq) => {
            if (seq !== undefined) mark(seq);
          }}
        />
        <div className="ml-auto flex gap-4">
          <Toggle label="Follow" on={follow} set={setFollow} />
          <Toggle label="Times" on={times} set={setTimes} />
          <a href={`/api/v1/jobs/${jobId}/log?format=text`} download={`${jobId}.log`} className="text-quiet hover:text-ink">
            Download
          </a>
        </div>
      </div>
      {/* The listeners only notice that the reader scrolls: nothing is operated by them. */}
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-element-interactions */}
      <div
        ref={box}
        // Keyboard users scroll the log too.
        // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
        tabIndex={0}
        role="log"
        aria-label="Log lines"
        aria-live="off"
        onWheel={(event) => {
          if (event.deltaY < 0) setFollow(false);
        }}
        onTouchMove={() => setFollow(false)}
        onKeyDown={(event) => {
          if (["ArrowUp", "PageUp", "Home"].includes(event.key)) setFollow(false);
          if (event.key === "End") setFollow(true);
          const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
          if (by && event.target === event.currentTarget) {
            event.preventDefault(); // by a row, however tall the list is
            scrollByRows(event.currentTarget, layout.rows, by);
          }
        }}
        className="min-h-0 flex-1 basis-0 overflow-auto font-mono text-[12.5px] leading-5 focus-visible:-outline-offset-2"
      >
        {layout.rows === 0 && <p className="px-4 py-6 text-quiet">{log.ended ? "This job wrote nothing." : "No output yet."}</p>}
        <div style={{ height: rows.height, position: "relative" }}>
          <div style={{ position: "absolute", top: rows.top, minWidth: "100%" }}>
            {Array.from({ length: rows.end - rows.first }, (_, i) => {
              const seq = layout.line(rows.first + i);
              const section = folds.at(seq);
              return (
                <RowView
                  key={seq}
                  seq={seq}
                  line={model.line(seq)}
                  section={section}
                  folded={section !== undefined && folds.folded(section)}
                  ends={folds.ends(seq)}
                  last={log.last}
                  times={times}
                  marked={seq === marked}
                  find={found.marks}
                  onMark={mark}
                  onFold={folds.toggle}
                />
              );
            })}
          </div>
        </div>
      </div>
    </section>
  );
}

function standing(log: LogState): string {
  const lines = log.last === 1 ? "1 line" : `${log.last.toLocaleString("en")} lines`;
  if (log.fault) return `Lines can't be read: ${log.fault}${log.ended && !log.complete ? "" : ". Trying again…"}`;
  if (log.complete) return `${lines} · complete`;
  if (log.ended) return `${lines} · the rest was lost with its host`;
  return log.connection === "retrying" ? "Connection lost, trying again…" : `${lines} · live`;
}

/**
 * Which sections are folded: steps that the reader folds, and groups that have ended
 * until the reader opens them, or a link leads into them.
 */
function useFolds(log: LogState, marked: number | undefined) {
  const [chosen, setChosen] = useState<ReadonlyMap<string, boolean>>(new Map());
  const { starts, ends, folded } = useMemo(() => {
    const starts = new Map(log.sections.map((s) => [s.first, s]));
    const ends = new Set(log.sections.filter((s) => s.kind === "group").map((s) => s.last));
    const hides = (s: Section) => s.kind === "group" && s.last > 0 && !(marked !== undefined && s.first < marked && marked <= s.last);
    return { starts, ends, folded: (s: Section) => chosen.get(sectionKey(s)) ?? hides(s) };
  }, [log.sections, chosen, marked]);
  return {
    folded,
    /** The section that a line begins. */
    at: (seq: number) => starts.get(seq),
    /** Whether a line is a group's last one. */
    ends: (seq: number) => ends.has(seq),
    toggle: (s: Section) => setChosen(new Map(chosen).set(sectionKey(s), !folded(s))),
    /** Opens what a line is in. */
    open: (seq: number) => {
      const around = log.sections.filter((s) => s.first < seq && seq <= (s.last || log.last) && folded(s));
      if (around.length > 0) setChosen(new Map([...chosen, ...around.map((s): [string, boolean] => [sectionKey(s), false])]));
    },
  };
}

/** How the server is asked for what a job's log has. */
const ask =
  (jobId: string): Ask =>
  async (text, pattern, pageToken, signal) => {
    try {
      const page = await logs.searchLogs({ jobId, text, pattern, pageToken, pageSize: 1000 }, { signal });
      return { lines: page.lines.map((line) => Number(line.seq)), next: page.nextPageToken };
    } catch (error) {
      throw new Error(message(error), { cause: error });
    }
  };

/** Finds lines of the whole log: Enter goes on, Shift and Enter back, Escape ends it. */
function SearchBox({ search, from, onFound }: { search: Search; from: number; onFound: (seq: number | undefined) => void }) {
  const found = useSyncExternalStore(search.subscribe, search.snapshot);
  const [text, setText] = useState("");
  const [pattern, setPattern] = useState(false);
  const [asked, setAsked] = useState(false); // of the text as it is now
  const go = async (by: 1 | -1) => {
    if (asked && found.text === text) {
      onFound(await search.step(by));
      return;
    }
    setAsked(true);
    onFound(await search.look(text, pattern, from));
  };
  return (
    <form
      role="search"
      className="flex min-w-0 flex-wrap items-center gap-x-2 gap-y-1 max-sm:order-last max-sm:basis-full"
      onSubmit={(event) => {
        event.preventDefault();
        void go(1);
      }}
    >
      <input
        type="search"
        aria-label="Search the log"
        placeholder="Search"
        value={text}
        maxLength={1000}
        onChange={(event) => {
          setText(event.target.value);
          setAsked(false);
          if (!event.target.value) void search.look("", false, 1);
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && event.shiftKey) {
            event.preventDefault();
            void go(-1);
          }
          if (event.key === "Escape") {
            setText("");
            void search.look("", false, 1);
          }
        }}
        className="w-44 min-w-0 rounded border border-line bg-page px-2 py-0.5 text-ink placeholder:text-quiet max-sm:flex-1"
      />
      <label className="flex cursor-pointer items-center gap-1.5 text-quiet hover:text-ink" title="A regular expression (RE2)">
        <input
          type="checkbox"
          checked={pattern}
          onChange={(event) => {
            setPattern(event.target.checked);
            setAsked(false);
          }}
          className="accent-accent"
        />
        Pattern
      </label>
      <button type="button" aria-label="Previous match" disabled={found.lines.length === 0} onClick={() => void go(-1)} className="rounded px-1 text-quiet hover:text-ink disabled:opacity-50">
        ↑
      </button>
      <button type="submit" aria-label="Next match" disabled={!text} className="rounded px-1 text-quiet hover:text-ink disabled:opacity-50">
        ↓
      </button>
      <span role="status" data-testid="log-search" className={`min-w-0 break-words ${found.error ? "text-bad" : "text-quiet"}`}>
        {told(found)}
      </span>
    </form>
  );
}

function Toggle({ label, on, set }: { label: string; on: boolean; set: (on: boolean) => void }) {
  return (
    <label className="flex cursor-pointer items-center gap-1.5 text-quiet hover:text-ink">
      <input type="checkbox" checked={on} onChange={(event) => set(event.target.checked)} className="accent-accent" />
      {label}
    </label>
  );
}

interface RowProps {
  seq: number;
  line: Line | undefined;
  /** What the line begins. */
  section: Section | undefined;
  folded: boolean;
  /** It is the last line of a group. */
  ends: boolean;
  /** The newest line. */
  last: number;
  times: boolean;
  marked: boolean;
  find: RegExp | undefined;
  onMark: (seq: number) => void;
  onFold: (s: Section) => void;
}

const RowView = memo(function RowView({ seq, line, section, folded, ends, last, times, marked, find, onMark, onFold }: RowProps) {
  return (
    <div className={`flex whitespace-pre ${marked ? "bg-hover" : ""}`} style={{ height: rowHeight }}>
      <a
        href={`#L${seq}`}
        aria-label={`Line ${seq}`}
        onClick={(event) => {
          event.preventDefault();
          onMark(seq);
        }}
        style={{ width: `${Math.max(5, String(last).length + 1)}ch` }}
        className="mr-3 shrink-0 text-right text-quiet no-underline select-none hover:text-ink"
      >
        {seq}
      </a>
      {times && <time className="w-27 shrink-0 pr-3 text-quiet">{line?.at.slice(11, 23)}</time>}
      {section ? (
        <Head section={section} text={line?.text} folded={folded} last={last} find={find} onFold={onFold} />
      ) : line ? (
        ends && endsGroup(line.text) ? <span className="pr-4 text-quiet">end of group</span> : <Text line={line} find={find} />
      ) : (
        <span aria-label="not read yet" className="my-1 h-3 w-40 animate-pulse rounded bg-hover" />
      )}
    </div>
  );
});

/** The line that begins a step or a group, which folds it. */
function Head({ section, text, folded, last, find, onFold }: Pick<RowProps, "folded" | "last" | "find" | "onFold"> & { section: Section; text: string | undefined }) {
  const lines = (section.last || last) - section.first;
  const title = shownOf(section.kind === "group" ? groupTitle(text ?? section.title) : (text ?? section.title)).text;
  return (
    <button type="button" aria-expanded={!folded} onClick={() => onFold(section)} className={`text-left ${section.kind === "step" ? "font-semibold text-accent" : "text-ink"}`}>
      {folded ? "▸" : "▾"} {title ? markedText(title, find) : section.kind === "group" ? "Group" : "Step"}
      <span className="pl-3 font-normal text-quiet">{lines === 1 ? "1 line" : `${lines.toLocaleString("en")} lines`}</span>
    </button>
  );
}
