import { describe, expect, it } from "vitest";

import { parseCast, Playback, runs } from "./cast";
import { Screen } from "./screen";

function shows(text: string, columns = 20, rows = 4): string[] {
  const screen = new Screen(columns, rows);
  screen.write(text);
  return screen.snapshot().map((line) => line.map((cell) => cell.text).join("").trimEnd());
}

describe("screen", () => {
  it.each([
    ["lines", "one\r\ntwo", ["one", "two"]],
    ["a progress bar", "10%\r100%", ["100%"]],
    ["backspaces", "abc\b\bX", ["aXc"]],
    ["tabs", "a\tb", ["a       b"]],
    ["lines that wrap", "x".repeat(25), ["x".repeat(20), "xxxxx"]],
    ["what scrolls off", "1\r\n2\r\n3\r\n4\r\n5\r\n6", ["1", "2", "3", "4", "5", "6"]],
    ["erased ends of lines", "hello\x1b[3D\x1b[K!", ["he!"]],
    ["an erased screen", "hello\r\nyou\x1b[2J\x1b[Hbye", ["bye"]],
    ["places", "\x1b[3;5Hx", ["", "", "    x"]],
    ["a full-screen program", "before\r\n\x1b[?1049h\x1b[Hinside\x1b[?1049lafter", ["before", "after"]],
    ["inserted and deleted lines", "a\r\nb\r\nc\x1b[2;1H\x1b[Lnew\x1b[1;1H\x1b[M", ["new", "b", "c"]],
    ["inserted and deleted characters", "abcd\x1b[2G\x1b[P\x1b[@_", ["a_cd"]],
    ["a scroll region", "\x1b[2;3rA\x1b[2;1HB\r\nC\r\nD", ["A", "C", "D"]],
    ["titles and character sets", "\x1b]0;title\x07\x1b(Bx\x1b]8;;http://a\x1b\\y", ["xy"]],
    ["other modes", "\x1b[?2004h$ \x1b[?25l", ["$"]],
    ["characters of several bytes", "☺\u{1f600}", ["☺\u{1f600}"]],
  ])("shows %s", (_, text, want) => expect(shows(text)).toEqual(want));

  it("takes sequences that come in pieces", () => {
    const text = "a\x1b[31mb\x1b]0;t\x07\x1b[0mc";
    for (let cut = 0; cut <= text.length; cut++) {
      const screen = new Screen(10, 2);
      screen.write(text.slice(0, cut));
      screen.write(text.slice(cut));
      expect(screen.snapshot()[0]).toEqual([
        { text: "a", look: "" },
        { text: "b", look: "ansi-red-fg" },
        { text: "c", look: "" },
      ]);
    }
  });

  it("outlives what a hostile program writes", () => {
    let seed = 1;
    const random = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
    const alphabet = ["\x1b", "[", "]", "?", ";", "1", "9999999999", "H", "J", "K", "L", "M", "P", "@", "r", "S", "T", "m", "h", "l", "\n", "\r", "\b", "x", "1049", "\x07", "c", "8"];
    for (let run = 0; run < 300; run++) {
      const screen = new Screen(random(1200), random(1200) % 50);
      for (let n = 0; n < 50; n++) {
        screen.write(Array.from({ length: 30 }, () => alphabet[random(alphabet.length)]).join(""));
        if (n % 10 === 0) screen.resize(random(5000), random(60));
      }
      expect(screen.snapshot().length).toBeLessThan(2100);
    }
    const screen = new Screen(10, 2);
    screen.write("\x1b[" + "1;".repeat(100_000));
    screen.write("m\r\x1b[2Kdone");
    expect(screen.snapshot().length).toBeLessThan(2100);
  });
});

describe("cast", () => {
  const text = ['{"version":2,"width":30,"height":5}', '[0.5,"o","a"]', '[100,"o","b"]', "no event", '[100.5,"r","3x5"]', '[101,"o","cd"]', ""].join("\n");

  it("cuts pauses and keeps the order", () => {
    const cast = parseCast(text);
    expect(cast.events.map((e) => e.at)).toEqual([0.5, 2.5, 3, 3.5]);
    expect([cast.width, cast.height, cast.length]).toEqual([30, 5, 3.5]);
  });

  it("plays forwards and backwards", () => {
    const play = new Playback(parseCast(text));
    const at = (seconds: number) => play.at(seconds).map((line) => runs(line).map((r) => r.text).join(""));
    expect(at(3.5)).toEqual(["abc", "d"]);
    expect(at(0.4)).toEqual([""]);
    expect(at(2.5)).toEqual(["ab"]);
  });

  it("takes what is no recording", () => expect(parseCast("<html>").events).toEqual([]));
});
