import { type ReactNode, useMemo, useRef, useState } from "react";

import { useCopy } from "../ui/clipboard";
import { hides, seenOf } from "./commands";
import type { Line } from "./model";
import { hitsIn, linksOf, type Piece, piecesOf } from "./pieces";
import { lookOf, plain } from "./sgr";
import { type Run, visible } from "./terminal";

/**
 * What a line says, in its colours; what was searched for is marked. Where that is in
 * what a terminal does not show, the line is shown as it was written. One that is
 * within a link, or a button, has none of its own.
 */
export function Text({ line, find, within = false }: { line: Line; find: RegExp | undefined; within?: boolean }) {
  const seen = useMemo(() => seenOf(line.text), [line.text]);
  const [raw, setRaw] = useState(false);
  if (line.stream === "system") return <span className="pr-4 text-quiet italic">{marked(seen.text, find)}</span>;
  const hits = hitsIn(seen.text, find);
  const unseen = seen.altered && find !== undefined && hits.length === 0 && hitsIn(line.text, find).length > 0;
  const asWritten = raw || unseen;
  const secret = hides(line.text);
  const base = line.stream === "stderr" ? "warn" : "ink";
  return (
    <span className={`pr-4 ${base === "warn" ? "text-warn" : ""}`}>
      {asWritten && !secret ? marked(line.text, find, visible) : <Pieces pieces={piecesOf(seen.runs, within ? [] : linksOf(seen), hits)} base={base} />}
      {seen.text === "" && !asWritten && " "}
      {seen.altered && !within && !secret && <Raw line={line} shown={raw} onShow={setRaw} />}
    </span>
  );
}

function Pieces({ pieces, base }: { pieces: Piece[]; base: "ink" | "warn" }) {
  return pieces.map((piece, i) => {
    const spans = piece.spans.map(({ hit, runs }, j) =>
      hit ? <mark key={j}>{runs.map((run, k) => written(run, k, base))}</mark> : runs.map((run, k) => written(run, `${j} ${k}`, base)),
    );
    if (!piece.href) return spans;
    return (
      <a key={i} href={piece.href} title={piece.href} target="_blank" rel="noopener noreferrer" className="underline hover:text-accent">
        {spans}
      </a>
    );
  });
}

function written(run: Run, key: string | number, base: "ink" | "warn"): ReactNode {
  const look = lookOf(run.style, base);
  if (!look && !run.look) return run.text;
  return (
    <span key={key} className={[run.look, look?.className].filter(Boolean).join(" ")} style={look?.style}>
      {run.text}
    </span>
  );
}

/** A text with what is found in it marked; each part is written so. */
export function marked(text: string, find: RegExp | undefined, as = (part: string) => part): ReactNode {
  const pieces = piecesOf([{ text, style: plain, href: "" }], [], hitsIn(text, find));
  for (const { spans } of pieces) for (const { runs } of spans) for (const run of runs) run.text = as(run.text);
  return <Pieces pieces={pieces} base="ink" />;
}

/** Shows a line as it was written, and copies it. */
function Raw({ line, shown, onShow }: { line: Line; shown: boolean; onShow: (shown: boolean) => void }) {
  const box = useRef<HTMLSpanElement>(null);
  const { copied, copy } = useCopy(line.text, () => box.current?.parentElement);
  const button = "rounded border border-line px-1 text-[11px] leading-4 text-quiet hover:text-ink focus-visible:-outline-offset-2";
  return (
    <span ref={box} className="ml-3 inline-flex gap-1 align-top select-none">
      <button type="button" aria-pressed={shown} aria-label={`Raw line ${line.seq}`} title="As it was written" onClick={() => onShow(!shown)} className={button}>
        raw
      </button>
      {shown && (
        <button type="button" aria-label={`${copied ? "Copied" : "Copy"} raw line ${line.seq}`} onClick={() => void copy()} className={button}>
          {copied ? "copied" : "copy"}
        </button>
      )}
      {shown && (
        <span role="status" className="sr-only">
          {copied ? "The line is copied" : ""}
        </span>
      )}
    </span>
  );
}
