import type { Job } from "../gen/nimbus/v1/job_pb";
import { standing, type Tone } from "../job/state";

const colour: Record<Tone, string> = {
  good: "text-good",
  bad: "text-bad",
  warn: "text-warn",
  busy: "text-busy",
  quiet: "text-quiet",
};

// A shape of its own for each tone, for those who can't tell the colours.
const shape: Record<Tone, string> = {
  good: "M3.5 8.5l3 3 6-7",
  bad: "M4 4l8 8M12 4l-8 8",
  warn: "M8 3v6M8 12v.5",
  busy: "M8 3a5 5 0 1 0 5 5",
  quiet: "M4 8h8",
};

/** Where a job stands: a shape, a colour and a word. */
export function StandingMark({ job }: { job: Job }) {
  const { word, tone } = standing(job);
  return (
    <span className={`inline-flex items-center gap-1.5 font-medium whitespace-nowrap ${colour[tone]}`}>
      <svg aria-hidden viewBox="0 0 16 16" className={`size-4 shrink-0 ${tone === "busy" ? "breathe" : ""}`}>
        <path d={shape[tone]} fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round" />
      </svg>
      {word}
    </span>
  );
}
