import { type RefObject, useEffect, useState } from "react";

/** Height of a row in px; lines don't wrap, the viewer scrolls sideways. */
export const rowHeight = 20;

/** How high a page can be made: browsers draw nothing that is much further down. */
const maxHeight = 12_000_000;

/** How many rows more are drawn than are seen, above and below. */
const overscan = 20;

/** Which rows of a tall list are drawn, and where. */
export interface Window {
  /** The first row that is drawn, from 0, and the one after the last. */
  first: number;
  end: number;
  /** Where the first row stands, and how high the list is, in px. */
  top: number;
  height: number;
}

/** What is drawn of a list that was scrolled to top, of which so much is seen. */
export function windowOf(rows: number, top: number, seen: number): Window {
  const height = Math.min(rows * rowHeight, maxHeight);
  const visible = Math.ceil(seen / rowHeight);
  const whole = rows * rowHeight;
  // Of a list that is taller than can be, the place in it goes by the share that was scrolled.
  const at = whole <= maxHeight ? top / rowHeight : (Math.min(1, top / Math.max(1, height - seen)) * (whole - seen)) / rowHeight;
  const row = Math.min(Math.max(0, Math.floor(at)), Math.max(0, rows - visible));
  const first = Math.max(0, row - overscan);
  return {
    first,
    end: Math.min(rows, row + visible + overscan),
    top: whole <= maxHeight ? first * rowHeight : Math.max(0, Math.min(top, height - seen) - (at - first) * rowHeight),
    height,
  };
}

/** Where to scroll for a row to be at the top of what is seen. */
export function scrollFor(rows: number, row: number, seen: number): number {
  const whole = rows * rowHeight;
  if (whole <= maxHeight) return row * rowHeight;
  return ((row * rowHeight) / Math.max(1, whole - seen)) * (maxHeight - seen);
}

/** Scrolls a list for a row to be seen. */
export function scrollToRow(box: Element, rows: number, row: number, where: "center" | "end"): void {
  const seen = box.clientHeight;
  const first = row - (where === "end" ? seen / rowHeight - 1 : seen / rowHeight / 2);
  box.scrollTo({ top: Math.max(0, scrollFor(rows, first, seen)) });
}

/** Scrolls a list by rows, however tall it is. */
export function scrollByRows(box: Element, rows: number, by: number): void {
  box.scrollBy({ top: scrollFor(rows, by, box.clientHeight) });
}

/** What is drawn of the list in box. */
export function useRows(box: RefObject<HTMLElement | null>, rows: number): Window {
  const [top, setTop] = useState(0);
  const [seen, setSeen] = useState(0);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const scrolled = () => setTop(element.scrollTop);
    const resized = new ResizeObserver(() => setSeen(element.clientHeight));
    element.addEventListener("scroll", scrolled, { passive: true });
    resized.observe(element);
    return () => {
      element.removeEventListener("scroll", scrolled);
      resized.disconnect();
    };
  }, [box]);
  return windowOf(rows, top, seen);
}
