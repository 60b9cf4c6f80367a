import { useVirtualizer } from "@tanstack/react-virtual";
import Anser from "anser";
import { memo, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

import { type Line, lineOfHash, type Row, rowOf, rows } from "./fold";
import { LogStream } from "./stream";

/** Height of a row in px; lines don't wrap, the viewer scrolls sideways. */
const rowHeight = 20;

/** The live log of a job: steps fold, line numbers are links, the end is followed. */
export function LogView({ jobId }: { jobId: string }) {
  const [stream] = useState(() => new LogStream(jobId));
  const log = useSyncExternalStore(stream.subscribe, stream.snapshot);
  const [folded, setFolded] = useState<ReadonlySet<number>>(new Set());
  const [marked, setMarked] = useState(() => lineOfHash(window.location.hash));
  const [follow, setFollow] = useState(marked === undefined);
  const [times, setTimes] = useState(false);
  const shown = useMemo(() => rows(log.lines, folded), [log.lines, folded]);
  const box = useRef<HTMLDivElement>(null);
  // The compiler's advice to leave its result unmemoised is heeded: it is used here alone.
  // eslint-disable-next-line react-hooks/incompatible-library
  const virtual = useVirtualizer({
    count: shown.length,
    getScrollElement: () => box.current,
    estimateSize: () => rowHeight,
    overscan: 20,
  });

  useEffect(() => {
    if (follow && shown.length > 0) virtual.scrollToIndex(shown.length - 1, { align: "end" });
  }, [follow, shown.length, virtual]);

  // A permalink is shown once its line has arrived.
  const arrived = marked !== undefined && log.lines.length >= marked;
  useEffect(() => {
    if (arrived) virtual.scrollToIndex(rowOf(shown, marked), { align: "center" });
    // Only when the line arrives or another one is marked, not on each new line.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [arrived, marked]);

  const mark = (seq: number) => {
    window.history.replaceState(null, "", `#L${seq}`);
    setMarked(seq);
    setFollow(false);
  };
  const fold = (step: number) => {
    const next = new Set(folded);
    if (!next.delete(step)) next.add(step);
    setFolded(next);
  };

  return (
    <section aria-label="Log" className="flex min-h-[22rem] flex-1 flex-col overflow-hidden rounded-lg border border-line bg-log">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-1 border-b border-line bg-panel px-3 py-1.5 text-sm">
        <h2 className="font-semibold">Log</h2>
        <p role="status" data-testid="log-status" className="text-quiet">
          {log.complete
            ? `${log.lines.length.toLocaleString("en")} lines · complete`
            : log.ended
              ? `${log.lines.length.toLocaleString("en")} lines · the rest was lost with its host`
            : log.connection === "retrying"
              ? "Connection lost, trying again…"
              : `${log.lines.length.toLocaleString("en")} lines · live`}
        </p>
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
        }}
        className="min-h-0 flex-1 basis-0 overflow-auto font-mono text-[12.5px] leading-5 focus-visible:-outline-offset-2"
      >
        {shown.length === 0 && <p className="px-4 py-6 text-quiet">{log.ended ? "This job wrote nothing." : "No output yet."}</p>}
        <div style={{ height: virtual.getTotalSize(), position: "relative" }}>
          {virtual.getVirtualItems().map((item) => {
            const row = shown[item.index];
            return row ? (
              <div key={item.key} style={{ position: "absolute", top: item.start, minWidth: "100%", height: rowHeight }}>
                <RowView row={row} times={times} marked={row.line.seq === marked} onMark={mark} onFold={fold} />
              </div>
            ) : null;
          })}
        </div>
      </div>
    </section>
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
  row: Row;
  times: boolean;
  marked: boolean;
  onMark: (seq: number) => void;
  onFold: (step: number) => void;
}

const RowView = memo(function RowView({ row, times, marked, onMark, onFold }: RowProps) {
  const { line } = row;
  return (
    <div className={`flex whitespace-pre ${marked ? "bg-hover" : ""}`}>
      <a
        href={`#L${line.seq}`}
        aria-label={`Line ${line.seq}`}
        onClick={(event) => {
          event.preventDefault();
          onMark(line.seq);
        }}
        className="w-14 shrink-0 pr-3 text-right text-quiet no-underline select-none hover:text-ink"
      >
        {line.seq}
      </a>
      {times && <time className="shrink-0 pr-3 text-quiet">{line.at.slice(11, 23)}</time>}
      {row.kind === "step" ? (
        <button type="button" aria-expanded={!row.folded} onClick={() => onFold(line.step)} className="font-semibold text-accent">
          {row.folded ? "▸" : "▾"} {line.text}
          <span className="pl-3 font-normal text-quiet">{row.lines === 1 ? "1 line" : `${row.lines} lines`}</span>
        </button>
      ) : (
        <Text line={line} />
      )}
    </div>
  );
});

function Text({ line }: { line: Line }) {
  if (line.stream === "system") return <span className="pr-4 text-quiet italic">{line.text}</span>;
  const colour = line.stream === "stderr" ? "text-warn" : "";
  if (!line.text.includes("\u001b")) return <span className={`pr-4 ${colour}`}>{line.text || " "}</span>;
  return (
    <span className={`pr-4 ${colour}`}>
      {Anser.ansiToJson(line.text, { use_classes: true, remove_empty: true }).map((part, i) => (
        <span key={i} className={[part.fg, ...part.decorations.map((d) => `ansi-${d}`)].filter(Boolean).map(cssClass).join(" ")}>
          {part.content}
        </span>
      ))}
    </span>
  );
}

/** anser says "ansi-red" for a foreground; ours ends in -fg. */
function cssClass(name: string): string {
  return /^ansi-(bright-)?(black|red|green|yellow|blue|magenta|cyan|white)$/.test(name) ? `${name}-fg` : name;
}
