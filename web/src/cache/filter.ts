/** Which entries the page shows: what the address says, as text. */
export interface CacheSearch {
  repo?: string;
  prefix?: string;
}

/** Longer than any key or repository: what is more was not written by a person. */
const longest = 512;

/** Reads the address. What is none of ours is left out. */
export function cacheSearch(search: Record<string, unknown>): CacheSearch {
  const out: CacheSearch = {};
  for (const name of ["repo", "prefix"] as const) {
    const value = search[name];
    // The router reads what looks like a number as one.
    const text = typeof value === "number" ? String(value) : value;
    if (typeof text === "string" && text.trim() !== "") out[name] = text.trim().slice(0, longest);
  }
  return out;
}
