/** One line of a job's log as the stream sends it. */
export interface Line {
  seq: number;
  at: string;
  stream: "stdout" | "stderr" | "system" | "step";
  step: number;
  text: string;
}

/** One row that the viewer shows: a line, or the head of a step. */
export type Row =
  | { kind: "line"; line: Line }
  | { kind: "step"; line: Line; lines: number; folded: boolean };

/**
 * The rows of a log: the lines of each folded step are left out, its head
 * tells how many there are.
 */
export function rows(lines: readonly Line[], folded: ReadonlySet<number>): Row[] {
  const out: Row[] = [];
  let head: Extract<Row, { kind: "step" }> | undefined;
  for (const line of lines) {
    if (line.stream === "step") {
      head = { kind: "step", line, lines: 0, folded: folded.has(line.step) };
      out.push(head);
      continue;
    }
    if (head) head.lines++;
    if (!head?.folded) out.push({ kind: "line", line });
  }
  return out;
}

/** The row that shows line seq, or the head of the folded step that hides it. */
export function rowOf(all: readonly Row[], seq: number): number {
  let best = -1;
  for (const [i, row] of all.entries()) {
    if (row.line.seq > seq) break;
    best = i;
  }
  return best;
}

/** The line that a location's hash names (#L12), if any. */
export function lineOfHash(hash: string): number | undefined {
  const match = /^#L(\d{1,12})$/.exec(hash);
  return match ? Number(match[1]) : undefined;
}
