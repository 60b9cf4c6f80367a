/** A part of a text: from, and up to but without to. */
export interface Span {
  from: number;
  to: number;
}

export interface Link extends Span {
  href: string;
}

/** The longest address that becomes a link, and how many a line has at most. */
const maxAddress = 2048;
const maxLinks = 100;

/**
 * An address that a link may lead to: of the web, and without a name before the host,
 * which reads as if it were one. undefined for any other.
 */
export function addressOf(text: string): string | undefined {
  if (text.length > maxAddress || !/^https?:\/\//i.test(text)) return undefined;
  try {
    const url = new URL(text);
    if ((url.protocol !== "http:" && url.protocol !== "https:") || url.username || url.password) return undefined;
    return url.href;
  } catch {
    return undefined;
  }
}

/** The addresses in a text, in order. */
export function linksIn(text: string): Link[] {
  const out: Link[] = [];
  if (!text.includes("://")) return out;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"`{}|\\^\u0000-\u001f\u007f-\u009f]+/gi)) {
    if (out.length === maxLinks) break;
    if (match[0].length > maxAddress) continue;
    const address = trimmed(match[0]);
    const href = addressOf(address);
    if (href) out.push({ from: match.index, to: match.index + address.length, href });
  }
  return out;
}

/** An address without what is likely to be of the sentence around it. */
function trimmed(address: string): string {
  const left = { ")": 0, "]": 0 };
  for (const c of address) {
    if (c === "(") left[")"]++;
    if (c === ")") left[")"]--;
    if (c === "[") left["]"]++;
    if (c === "]") left["]"]--;
  }
  let end = address.length;
  for (; end > 0; end--) {
    const c = address.charAt(end - 1);
    if (".,;:!?'*".includes(c)) continue;
    if ((c === ")" || c === "]") && left[c] < 0) {
      left[c]++; // it was opened before the address
      continue;
    }
    break;
  }
  return address.slice(0, end);
}
