import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";

import { message, shells as service } from "../api";
import type { Shell } from "../gen/nimbus/v1/shell_pb";
import { millis } from "../job/timeline";
import { parseCast, Playback, runs } from "./cast";

/** The terminals that were opened in a job, and what they showed. */
export function Shells({ jobId, ongoing }: { jobId: string; ongoing: boolean }) {
  const [playing, setPlaying] = useState<string>();
  const { data } = useQuery({
    queryKey: ["shells", jobId],
    queryFn: async ({ signal }) => (await service.listShells({ jobId }, { signal })).shells,
    refetchInterval: ongoing ? 5000 : false,
  });
  if (!data?.length) return null;
  return (
    <section aria-label="Shells" className="rounded-lg border border-line bg-panel px-4 py-2 text-sm" data-testid="shells">
      <h2 className="font-semibold">Shells ({data.length})</h2>
      <ul className="mt-2 grid gap-1">
        {data.map((shell) => (
          <li key={shell.id} className="flex flex-wrap items-center gap-x-3 gap-y-1">
            <time className="text-quiet tabular-nums">{new Date(millis(shell.openedAt) ?? 0).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" })}</time>
            <span className="min-w-0 break-words">{shell.actor}</span>
            <span className="min-w-0 break-words text-quiet">{[shell.spec?.command.join(" "), ending(shell)].filter(Boolean).join(" · ")}</span>
            {shell.recordedLines > 0n && (
              <button
                type="button"
                aria-expanded={playing === shell.id}
                onClick={() => setPlaying(playing === shell.id ? undefined : shell.id)}
                className="ml-auto rounded border border-line px-2 py-0.5 hover:border-accent"
              >
                {playing === shell.id ? "Close recording" : "Show recording"}
              </button>
            )}
            {playing === shell.id && <Recording jobId={jobId} shellId={shell.id} />}
          </li>
        ))}
      </ul>
    </section>
  );
}

function ending(shell: Shell): string {
  if (shell.state !== "ended") return "open now";
  if (shell.end?.code !== undefined) return `exit code ${shell.end.code}`;
  return shell.end?.message || (shell.end?.signal ?? "ended");
}

async function load(path: string, signal: AbortSignal): Promise<string> {
  const answer = await fetch(path, { signal });
  if (answer.status === 403) throw new Error("Recordings are for operators of the org.");
  if (!answer.ok) throw new Error(`The recording can't be read: ${answer.status}`);
  return answer.text();
}

function Recording({ jobId, shellId }: { jobId: string; shellId: string }) {
  const path = `/api/v1/jobs/${jobId}/shells/${shellId}/recording`;
  const { data, error } = useQuery({ queryKey: ["recording", shellId], queryFn: ({ signal }) => load(path, signal), retry: false });
  if (error) {
    return (
      <p role="alert" className="basis-full text-bad">
        {error instanceof Error ? error.message : message(error)}
      </p>
    );
  }
  return data === undefined ? (
    <p role="status" className="basis-full text-quiet">
      Reading the recording…
    </p>
  ) : (
    <Player text={data} path={path} />
  );
}

const speeds = [1, 2, 4, 8];

/** Plays a recording. It begins at its end, where all of it can be read. */
function Player({ text, path }: { text: string; path: string }) {
  const cast = useMemo(() => parseCast(text), [text]);
  const playback = useMemo(() => new Playback(cast), [cast]);
  const [at, setAt] = useState(cast.length);
  const [speed, setSpeed] = useState<number>(); // undefined: it stands still
  const box = useRef<HTMLPreElement>(null);
  const lines = useMemo(() => playback.at(at), [playback, at]);

  useEffect(() => {
    if (speed === undefined) return;
    const began = performance.now();
    const from = at;
    const timer = setInterval(() => {
      const now = Math.min(from + (speed * (performance.now() - began)) / 1000, cast.length);
      setAt(now);
      if (now >= cast.length) setSpeed(undefined);
    }, 50);
    return () => clearInterval(timer);
    // It goes on from where it was when it began to.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [speed, cast]);

  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);

  const play = () => {
    if (at >= cast.length) setAt(0);
    setSpeed(speed === undefined ? 1 : undefined);
  };
  return (
    <div className="mt-1 basis-full" data-testid="player">
      <div className="flex flex-wrap items-center gap-3">
        <button type="button" onClick={play} className="rounded border border-line px-3 py-1 hover:border-accent">
          {speed === undefined ? "Play" : "Pause"}
        </button>
        <input
          type="range"
          aria-label="Time"
          aria-valuetext={`${at.toFixed(0)} of ${cast.length.toFixed(0)} seconds`}
          min={0}
          max={cast.length}
          step="any"
          value={at}
          onChange={(e) => {
            setSpeed(undefined);
            setAt(e.target.valueAsNumber);
          }}
          className="min-w-32 flex-1 accent-accent"
        />
        <span className="text-quiet tabular-nums">
          {at.toFixed(0)} / {cast.length.toFixed(0)} s
        </span>
        <label className="flex items-center gap-1.5 text-quiet">
          Speed
          <select
            value={speed ?? 1}
            disabled={speed === undefined}
            onChange={(e) => setSpeed(Number(e.target.value))}
            className="rounded border border-line bg-panel px-1 py-0.5 text-ink disabled:opacity-60"
          >
            {speeds.map((s) => (
              <option key={s} value={s}>
                {s}×
              </option>
            ))}
          </select>
        </label>
        <a href={path} download className="text-quiet">
          Download
        </a>
      </div>
      {/* It scrolls, so that the keyboard has to reach it. */}
      {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <pre ref={box} tabIndex={0} role="region" aria-label="What the terminal showed" className="mt-2 max-h-[28rem] overflow-auto rounded border border-line bg-log p-3 font-mono text-[13px] leading-5">
        {lines.map((line, row) => (
          <div key={row}>
            {runs(line).map((run, n) =>
              run.look ? (
                <span key={n} className={run.look}>
                  {run.text}
                </span>
              ) : (
                run.text
              ),
            )}
            {"\n"}
          </div>
        ))}
      </pre>
    </div>
  );
}
