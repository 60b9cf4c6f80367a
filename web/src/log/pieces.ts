import { type Link, linksIn, type Span } from "./links";
import type { Run, Shown } from "./terminal";

/** A part of a line that leads somewhere, or nowhere; within it what was searched for is told apart. */
export interface Piece {
  href: string;
  spans: { hit: boolean; runs: Run[] }[];
}

/** How many hits a line has at most: more are not marked. */
const maxHits = 1000;

/** What a search finds in a text, in order. Of what is found everywhere nothing is. */
export function hitsIn(text: string, find: RegExp | undefined): Span[] {
  const out: Span[] = [];
  if (!find) return out;
  for (const match of text.matchAll(find)) {
    if (!match[0] || out.length === maxHits) break;
    out.push({ from: match.index, to: match.index + match[0].length });
  }
  return out;
}

/** A line's links: those that it says are, and addresses in the rest of it. */
export function linksOf(shown: Shown): Link[] {
  const own: Link[] = [];
  let at = 0;
  for (const run of shown.runs) {
    const last = own.at(-1);
    const to = at + run.text.length;
    if (run.href && last?.href === run.href && last.to === at) last.to = to;
    else if (run.href) own.push({ from: at, to, href: run.href });
    at = to;
  }
  const found = linksIn(shown.text);
  if (own.length === 0) return found;
  let next = 0; // both are in order
  const apart = found.filter((link) => {
    while (next < own.length && (own[next]?.to ?? 0) <= link.from) next++;
    return (own[next]?.from ?? Infinity) >= link.to;
  });
  return [...own, ...apart].sort((a, b) => a.from - b.from);
}

/**
 * The runs of a line cut where links and hits begin and end. A hit is one span,
 * however many runs it goes over; where a link begins or ends within it, it is two.
 */
export function piecesOf(runs: readonly Run[], links: readonly Link[], hits: readonly Span[]): Piece[] {
  const out: Piece[] = [];
  let at = 0;
  let l = 0;
  let h = 0;
  let before: { link: Link | undefined; hit: Span | undefined } | undefined;
  for (const run of runs) {
    const end = at + run.text.length;
    for (let from = at; from < end; ) {
      while ((links[l]?.to ?? Infinity) <= from) l++;
      while ((hits[h]?.to ?? Infinity) <= from) h++;
      const link = inside(links[l], from);
      const hit = inside(hits[h], from);
      const to = Math.min(end, borderOf(links[l], from), borderOf(hits[h], from));
      let piece = out.at(-1);
      if (!piece || before?.link !== link) out.push((piece = { href: link?.href ?? "", spans: [] }));
      let span = piece.spans.at(-1);
      if (!span || before?.hit !== hit) piece.spans.push((span = { hit: hit !== undefined, runs: [] }));
      span.runs.push({ ...run, text: run.text.slice(from - at, to - at) });
      before = { link, hit };
      from = to;
    }
    at = end;
  }
  return out;
}

function inside<T extends Span>(span: T | undefined, at: number): T | undefined {
  return span && span.from <= at ? span : undefined;
}

/** Where a span that is not over by then begins or ends next. */
function borderOf(span: Span | undefined, at: number): number {
  if (!span) return Infinity;
  return span.from > at ? span.from : span.to;
}
