import { useEffect, useState } from "react";

/** How long it is said that something was copied, in ms. */
const told = 2000;

/** Copies a text, and tells for a while that it did. Browsers have a clipboard for pages
 * that came by https, or from this machine: for others what shows the text is selected. */
export function useCopy(text: string, shows: () => Element | null | undefined): { copied: boolean; copy: () => Promise<void> } {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), told);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => {
    const place = shows();
    if (navigator.clipboard as Clipboard | undefined) {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } else if (place) {
      window.getSelection()?.selectAllChildren(place);
    }
  };
  return { copied, copy };
}
