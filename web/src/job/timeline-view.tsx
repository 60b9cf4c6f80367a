import type { Timeline } from "../gen/nimbus/v1/job_pb";
import { useNow } from "../ui/now";
import { duration, type Kind, phases, spans } from "./timeline";

const look: Record<Kind, { word: string; bar: string }> = {
  wait: { word: "waiting", bar: "bg-line" },
  boot: { word: "starting", bar: "bg-busy" },
  run: { word: "running", bar: "bg-accent" },
  clean: { word: "cleaning up", bar: "bg-quiet" },
};

/** A job's life as one bar and the phases under it. */
export function TimelineView({ timeline, running }: { timeline: Timeline | undefined; running: boolean }) {
  const now = useNow(running);
  const reached = phases(timeline);
  const bars = spans(reached, running ? now : undefined);
  const total = bars.at(-1)?.to ?? 0;
  if (reached.length === 0) return null;
  return (
    <section aria-label="Timeline" className="rounded-lg border border-line bg-panel p-4">
      <div aria-hidden className="flex h-3 w-full overflow-hidden rounded-full bg-hover">
        {bars.map((bar) => (
          <div key={bar.from} className={look[bar.kind].bar} style={{ width: `${(100 * (bar.to - bar.from)) / total}%` }} />
        ))}
      </div>
      <ul className="mt-2 flex flex-wrap gap-x-4 gap-y-1 text-sm text-quiet">
        {(Object.keys(look) as Kind[]).map((kind) => {
          const ms = bars.filter((b) => b.kind === kind).reduce((sum, b) => sum + b.to - b.from, 0);
          return ms > 0 ? (
            <li key={kind} className="flex items-center gap-1.5">
              <span aria-hidden className={`size-2.5 rounded-sm ${look[kind].bar}`} />
              {look[kind].word} <span className="text-ink tabular-nums">{duration(ms)}</span>
            </li>
          ) : null;
        })}
      </ul>
      <ol className="mt-3 grid grid-cols-2 gap-x-6 gap-y-0.5 text-sm sm:grid-cols-3 lg:grid-cols-5">
        {reached.map((p) => (
          <li key={p.name} className="flex justify-between gap-2 border-b border-dotted border-line py-0.5">
            <span className="text-quiet">{p.name}</span>
            <time dateTime={new Date(p.at).toISOString()} title={new Date(p.at).toLocaleString()} className="tabular-nums">
              {duration(p.sinceStart)}
            </time>
          </li>
        ))}
      </ol>
    </section>
  );
}
