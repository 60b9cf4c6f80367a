/** How many look-ups found something, "–" before there was one. */
export function ratio(hits: bigint, misses: bigint): string {
  const all = hits + misses;
  return all === 0n ? "–" : `${Math.round((100 * Number(hits)) / Number(all))} %`;
}

/** Of which repository's jobs something is: the org's own have none. */
export const ofRepo = (repo: string): string => repo || "the org's own jobs";
