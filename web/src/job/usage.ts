import type { UsagePoint, UsageSeries } from "../gen/nimbus/v1/job_pb";

/** One line of a chart: what was used by each moment. */
export interface Line {
  name: string;
  values: number[];
}

export interface Chart {
  name: string;
  unit: "CPU" | "GPU" | "B" | "B/s" | "W";
  /** Seconds since the series began, one for each value of each line. */
  at: number[];
  lines: Line[];
  /** The most that the job could have; 0 where nothing says. */
  limit: number;
}

/**
 * The charts of a series. Memory is of the moment, all else a rate since the
 * point before; a disk or a network that nothing went to or from, and GPUs that
 * a job has not, are left out.
 */
export function charts(series: UsageSeries | undefined, cpus: number, memoryMib: number): Chart[] {
  const points = series?.points ?? [];
  if (points.length < 2) return [];
  const at = points.map((p) => Number(p.atMs) / 1000);
  const rate = (key: Counter) => rates(points, key);
  const all: Chart[] = [
    { name: "CPU", unit: "CPU", at, lines: [line("CPU", rate("cpuMs").map((perSecond) => perSecond / 1000))], limit: cpus },
    { name: "Memory", unit: "B", at, lines: [line("memory", points.map((p) => Number(p.memoryBytes)))], limit: memoryMib * 1024 * 1024 },
    { name: "Disk", unit: "B/s", at, lines: [line("written", rate("writtenBytes")), line("read", rate("readBytes"))], limit: 0 },
    { name: "Network", unit: "B/s", at, lines: [line("received", rate("receivedBytes")), line("sent", rate("sentBytes"))], limit: 0 },
    { name: "GPU", unit: "GPU", at, lines: [line("GPU", rate("gpuMs").map((perSecond) => perSecond / 1000))], limit: 0 },
    { name: "GPU memory", unit: "B", at, lines: [line("GPU memory", points.map((p) => Number(p.gpuMemoryBytes)))], limit: 0 },
    { name: "GPU power", unit: "W", at, lines: [line("GPU power", rate("gpuMillijoules").map((perSecond) => perSecond / 1000))], limit: 0 },
  ];
  return all.filter((chart) => chart.limit > 0 || chart.lines.some((l) => l.values.some((v) => v > 0)));
}

const line = (name: string, values: number[]): Line => ({ name, values });

/** What of a point only grows. */
type Counter = "cpuMs" | "readBytes" | "writtenBytes" | "sentBytes" | "receivedBytes" | "gpuMs" | "gpuMillijoules";

function rates(points: UsagePoint[], key: Counter): number[] {
  return points.map((p, i) => {
    const before = points[i - 1];
    const seconds = Number(p.atMs - (before?.atMs ?? 0n)) / 1000;
    return seconds > 0 ? Number(p[key] - (before?.[key] ?? 0n)) / seconds : 0;
  });
}

/** The highest that a chart shows: all of what the job could have, or of what it used. */
export function ceiling(chart: Chart): number {
  return Math.max(chart.limit, ...chart.lines.flatMap((l) => l.values)) || 1;
}

/** The points of a line in a box, as an SVG path. */
export function path(at: number[], values: number[], most: number, width: number, height: number): string {
  const first = at[0] ?? 0;
  const length = (at.at(-1) ?? 0) - first || 1;
  return values
    .map((v, i) => `${i === 0 ? "M" : "L"}${((width * ((at[i] ?? 0) - first)) / length).toFixed(1)} ${(height - (height * v) / most).toFixed(1)}`)
    .join("");
}

/** A value as people say it: 0.42, 3.1 MiB, 12 KiB/s. */
export function amount(value: number, unit: Chart["unit"]): string {
  if (unit === "CPU" || unit === "GPU") return value.toFixed(2);
  if (unit === "W") return `${value.toFixed(0)} W`;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let v = value;
  let i = 0;
  while (v >= 1024 && i < units.length - 1) {
    v /= 1024;
    i++;
  }
  return `${i === 0 || v >= 100 ? v.toFixed(0) : v.toFixed(1)} ${units[i]}${unit === "B/s" ? "/s" : ""}`;
}

/** What a chart shows, in a sentence: for who can't see it, and beside it. */
export function summary(chart: Chart): string {
  const of = chart.limit > 0 ? ` of ${chart.unit === "CPU" ? chart.limit : amount(chart.limit, chart.unit)}` : "";
  return chart.lines
    .map((l) => {
      const most = amount(Math.max(...l.values), chart.unit);
      const now = amount(l.values.at(-1) ?? 0, chart.unit);
      return chart.lines.length > 1 ? `${l.name} at most ${most}` : `${now}, at most ${most}${of}`;
    })
    .join("; ");
}
