import { readFileSync } from "node:fs";
import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it } from "vitest";

import { commandOf, seenOf } from "./commands";
import { addressOf, linksIn } from "./links";
import { hitsIn, linksOf, piecesOf } from "./pieces";
import { marksOf } from "./search";
import { colours, contrast, contrastWanted, dark, light, lookOf, plain, type Style, styled, trueColour } from "./sgr";
import { shownOf, visible } from "./terminal";
import { Text } from "./text";

const esc = "\u001b";

/** What a terminal shows, each run that has a style in {}. */
function shown(line: string): string {
  return shownOf(line)
    .runs.map((run) => (Object.keys(run.style).length > 0 ? `{${run.text}}` : run.text))
    .join("");
}

describe("a line on a terminal", () => {
  it("has no titles, messages and movements", () => {
    for (const [line, want] of [
      ["plain \t text, ünï 日本", "plain \t text, ünï 日本"],
      [`a${esc}]0;title\u0007b`, "ab"],
      [`a${esc}]2;title${esc}\\b`, "ab"],
      ["a\u009d0;title\u009cb", "ab"],
      [`a${esc}]52;c;cm0gLXJmIC8=\u0007b`, "ab"],
      [`a${esc}Pq#0${esc}\\b${esc}_x${esc}\\c${esc}^y${esc}\\d`, "abcd"],
      [`a${esc}]0;never ended`, "a"],
      [`a${esc}]0;cut${esc}[31mb\u0018c`, "a{bc}"],
      [`a${esc}[2Jb${esc}[1;1Hc${esc}[?1049hd${esc}[>4;2me${esc}[1 qf`, "abcdef"],
      [`a${esc}(0b${esc}7c${esc}c${esc}#8d${esc}`, "abcd"],
      ["a\u0007\u0000\u0085b\u007f", "ab"],
      [`x${esc}[31${esc}[32my`, "x{y}"],
      ["\u009b31mred", "{red}"],
    ] as const) {
      expect(shown(line), visible(line)).toBe(want);
    }
    expect(shownOf(`${esc}[1;31mred${esc}[m${esc}[K`).altered).toBe(false);
    expect(shownOf(`a${esc}]0;title\u0007`).altered).toBe(true);
  });

  // The command line's tests have the same lines (internal/cli/terminal).
  it("is what it came to in the end", () => {
    for (const [line, want] of [
      ["done\r", "done"],
      ["done\r\r", "done"],
      [" 10%\r 50%\r100%", "100%"],
      ["a longer one\rshort", "shortger one"],
      [`a longer one\r${esc}[Kshort`, "short"],
      [`a longer one\rshort${esc}[K`, "short"],
      [`a longer one${esc}[2K\rshort`, "short"],
      [`a longer one${esc}[1K\rshort`, "short"],
      [`abcdef${esc}[3D${esc}[1Kx`, "   xef"],
      [`abcdef${esc}[4Gx${esc}[1Cy`, "abcxey"],
      ["ab\b\bcd\b\b\b\be", "ed"],
      [`[${esc}[3C]`, "[   ]"],
      ["a\tb\rc", "c       b"],
      ["日本\rx", "x 本"],
      [`日本${esc}[2Gx`, " x本"],
      ["ab日\r日c", "日c"],
      ["✅ a\r❌ b", "❌ b"],
      ["e\u0301x\ry", "yx"],
      ["ex\re\u0301", "e\u0301x"],
      [`${esc}[31mred${esc}[0m\rb`, "b{ed}"],
      [`${esc}[31mred${esc}[39mx\r${esc}[1;4mb`, "{b}{ed}x"],
      [`x${esc}[31m${esc}[Ky`, "x{y}"],
      ["gone\r    ", ""],
      [`${esc}[9999999999999999999Cx${esc}[Dy`, `${" ".repeat(500)}y`],
    ] as const) {
      expect(shown(line), visible(line)).toBe(want);
    }
    expect(shownOf("done\r").altered).toBe(false);
    expect(shownOf("1\r2").altered).toBe(true);
  });

  it("takes bounded time, whatever it is", { timeout: 60_000 }, () => {
    for (const again of [`${esc}[1K`, `${esc}[2Kx`, "\r\t", `${esc}[9999Cx`, `${esc}[1m\r`, `${esc}]`, `${esc}[`, "a\u0301\b", "\r", ")", `${esc}[31mx${esc}[0m`, `${esc}]8;;http://x${esc}\\x`]) {
      const line = ("a".repeat(32_000) + again.repeat(Math.floor(32_000 / again.length)) + "x").slice(0, 64_000);
      const seen = seenOf(line);
      expect(seen.text.length).toBeLessThan(600_000);
      expect(seen.runs.length).toBeLessThanOrEqual(2000);
      piecesOf(seen.runs, linksOf(seen), hitsIn(seen.text, /a|x/g));
      commandOf(`::error file=${line}`);
    }
    // From some erasure on, nothing is erased any more.
    expect(shownOf("a".repeat(32_000) + `${esc}[2Kx`.repeat(1000)).text.endsWith("xxx")).toBe(true);
    expect(shownOf("a".repeat(32_000) + `${esc}[1Kx`.repeat(1000)).text).toContain("xxx");
    expect(linksIn(`https://x.test/${"(".repeat(2000)} `.repeat(30))).toHaveLength(30);
    expect(linksIn("https://x.test/ ".repeat(1000))).toHaveLength(100);
  });
});

describe("SGR", () => {
  const of = (...sequences: string[]) => sequences.reduce(styled, plain);

  it("is read whole", () => {
    expect(of("1;2;3;4;7;9;53")).toEqual({ bold: true, dim: true, italic: true, underline: true, inverse: true, strike: true, overline: true });
    expect(of("1;2;3;4;7;9;53;31;41", "22;23;24;27;29;55;39;49")).toEqual({});
    expect(of("1;31", "")).toEqual({});
    expect(of("31", "0;1")).toEqual({ bold: true });
    expect(of("31;107")).toEqual({ fg: 1, bg: 15 });
    expect(of("90;40")).toEqual({ fg: 8, bg: 0 });
    expect(of("38;5;208;1")).toEqual({ fg: 208, bold: true });
    expect(of("48;2;1;2;3;4")).toEqual({ bg: trueColour + 0x010203, underline: true });
    expect(of("38:2::1:2:3")).toEqual({ fg: trueColour + 0x010203 });
    expect(of("38:2:1:2:3")).toEqual({ fg: trueColour + 0x010203 });
    expect(of("38:2::1:2:3:::;1")).toEqual({ fg: trueColour + 0x010203, bold: true });
    expect(of("38:5:9;4:3")).toEqual({ fg: 9, underline: true });
    expect(of("4", "4:0")).toEqual({});
    expect(of("58;5;1;1")).toEqual({ bold: true });
    expect(of("58:2::1:1:1;3")).toEqual({ italic: true });
    expect(of("38;5;256;1", "38;2;1;2", "38", "8", "5", "x", "999")).toEqual({ bold: true });
    expect(of("38;2;1;2;300")).toEqual({});
  });

  it("can be read in both themes, in every colour and on every ground", { timeout: 60_000 }, () => {
    const some = [undefined, ...Array.from({ length: 16 }, (_, i) => i), ...Array.from({ length: 35 }, (_, i) => 16 + i * 7), trueColour, trueColour + 0xffffff, trueColour + 0x777777, trueColour + 0x00ff00];
    for (const theme of [light, dark]) {
      for (const fg of some) {
        for (const bg of some) {
          for (const more of [{}, { dim: true }, { inverse: true }] as Style[]) {
            const told = colours({ fg, bg, ...more }, more.dim ? "warn" : "ink", theme);
            if (told.fg === undefined) {
              expect([fg, bg]).toEqual([undefined, undefined]);
              continue;
            }
            const against = told.bg === undefined ? [theme.behind, theme.log] : [told.bg];
            for (const ground of against) if (contrast(told.fg, ground) < contrastWanted) throw new Error(`${fg} on ${bg} has ${contrast(told.fg, ground)}`);
          }
        }
      }
    }
  });

  it("knows the themes' colours", () => {
    const css = readFileSync("src/styles.css", "utf8");
    for (const [theme, block] of [
      [light, /:root \{([^}]*)\}/.exec(css)?.[1] ?? ""],
      [dark, /:root\[data-theme="dark"\] \{([^}]*)\}/.exec(css)?.[1] ?? ""],
    ] as const) {
      for (const [name, colour] of [["hover", theme.behind], ["log", theme.log], ["ink", theme.ink], ["warn", theme.warn]] as const) {
        expect(block).toContain(`--${name}: #${colour.toString(16).padStart(6, "0")};`);
      }
    }
  });

  it("looks as it says", () => {
    expect(lookOf(plain, "ink")).toBeUndefined();
    expect(lookOf({ bold: true, italic: true, underline: true, strike: true }, "ink")).toEqual({ className: "font-bold italic", style: { textDecorationLine: "underline line-through" } });
    expect(lookOf({ fg: 1 }, "ink")).toEqual({ className: "sgr-fg", style: { "--sgr-fg-light": "#b3261e", "--sgr-fg-dark": "#ff8a80" } });
    expect(lookOf({ inverse: true }, "ink")?.style).toEqual({
      "--sgr-fg-light": "#fbfaf6",
      "--sgr-fg-dark": "#0e1117",
      "--sgr-bg-light": "#1d2127",
      "--sgr-bg-dark": "#e4e6ea",
    });
  });
});

describe("links", () => {
  it("lead to the web and nowhere else", () => {
    for (const address of ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "ftp://x.test", "//x.test", "/jobs", "http://", "https://good.test@evil.test/", "java\nscript:x", `https://x.test/${"y".repeat(3000)}`]) {
      expect(addressOf(address), address.slice(0, 40)).toBeUndefined();
    }
    expect(addressOf("https://x.test/a?b#c")).toBe("https://x.test/a?b#c");
    expect(addressOf("HTTP://x.test")).toBe("http://x.test/");
  });

  it("are found in a text, without what is around them", () => {
    const found = (text: string) => linksIn(text).map(({ from, to }) => text.slice(from, to));
    expect(found("see https://x.test/a, (http://y.test/b) and <https://z.test/c>.")).toEqual(["https://x.test/a", "http://y.test/b", "https://z.test/c"]);
    expect(found("https://x.test/a_(b)")).toEqual(["https://x.test/a_(b)"]);
    expect(found('href="https://x.test/a"')).toEqual(["https://x.test/a"]);
    expect(found("[x](https://x.test/a).")).toEqual(["https://x.test/a"]);
    expect(found("javascript://x https:// http://")).toEqual([]);
  });

  it("are those that the terminal was told, and addresses in the rest", () => {
    const line = `${esc}]8;id=1;https://x.test/a${esc}\\here ${esc}[1mand${esc}[m on${esc}]8;;${esc}\\ https://y.test ${esc}]8;;javascript:alert(1)\u0007no${esc}]8;;\u0007`;
    const seen = shownOf(line);
    expect(seen.text).toBe("here and on https://y.test no");
    expect(linksOf(seen)).toEqual([
      { from: 0, to: 11, href: "https://x.test/a" },
      { from: 12, to: 26, href: "https://y.test/" },
    ]);
    const named = shownOf(`${esc}]8;;https://evil.test/\u0007https://good.test${esc}]8;;\u0007`);
    expect(linksOf(named)).toEqual([{ from: 0, to: 17, href: "https://evil.test/" }]);
  });
});

interface Told {
  line: string;
  level: string;
  shown: string;
}

describe("workflow commands", () => {
  it("are shown as what they say, and have a label where the server counts a level", () => {
    const labels: Record<string, string> = { error: "error", warning: "warn", notice: "info", debug: "debug" };
    const all = JSON.parse(readFileSync("../internal/logs/testdata/commands.json", "utf8")) as Told[];
    expect(all.length).toBeGreaterThan(20);
    for (const { line, level, shown } of all) {
      expect(seenOf(line).text, line).toBe(shown);
      expect(labels[commandOf(line)?.kind ?? ""] ?? "", line).toBe(level);
    }
  });

  it("never show a secret", () => {
    const line = { seq: 1, at: "", stream: "stdout", step: 0, text: "::add-mask::s3cret" } as const;
    for (const find of [undefined, /s3cret/g]) expect(renderToStaticMarkup(<Text line={line} find={find} />)).not.toContain("s3cret");
  });
});

describe("what is drawn", () => {
  const draw = (text: string, find?: RegExp, within = false) => renderToStaticMarkup(<Text line={{ seq: 7, at: "", stream: "stdout", step: 0, text }} find={find} within={within} />);
  const words = (html: string) => html.replace(/<button.*?<\/button>/g, "").replace(/<[^>]*>/g, "");

  it("marks a hit whole, whatever it is written in", () => {
    const html = draw(`a ${esc}[31mnee${esc}[1mdl${esc}[0me b`, marksOf("needle", false));
    expect(html.match(/<mark>/g)).toHaveLength(1);
    expect(/<mark>(.*)<\/mark>/.exec(html)?.[1]?.replace(/<[^>]*>/g, "")).toBe("needle");
    expect(words(html)).toBe("a needle b");
  });

  it("marks in links, and on both sides of where one begins", () => {
    const html = draw("at https://x.test/needle", marksOf("x.test/needle", false));
    expect(html).toContain('<a href="https://x.test/needle" title="https://x.test/needle" target="_blank" rel="noopener noreferrer"');
    expect(html).toContain("https://<mark>x.test/needle</mark></a>");
    expect(draw("at https://x.test/", marksOf("at https", false)).match(/<mark>[^<]*<\/mark>/g)).toEqual(["<mark>at </mark>", "<mark>https</mark>"]);
  });

  it("shows a line as it was written where only that has what was found", () => {
    const line = "needle 1\rdone   ";
    expect(words(draw(line))).toBe("done   1");
    expect(words(draw(`\u001b[31m\u009b1m\u007f\rx`, /\[31m/g))).toBe("^[[31m&lt;9b&gt;1m^?^Mx");
    expect(words(draw(line, /done/g))).toBe("done   1");
    const html = draw(line, /needle/g);
    expect(html).toContain("<mark>needle</mark>");
    expect(words(html)).toBe("needle 1^Mdone   ");
  });

  it("has the whole line at hand, but within a link", () => {
    expect(draw("1\r2")).toContain('aria-label="Raw line 7"');
    expect(draw("1\r2", undefined, true)).not.toContain("button");
    expect(draw("https://x.test", undefined, true)).not.toContain("<a ");
    expect(draw(`${esc}[31mred`)).not.toContain("button");
  });

  it("labels in words, and escapes what a job writes", () => {
    const html = draw("::error file=a.go,line=3,title=T::<b>x</b>%0Ay");
    expect(html).toContain('<span class="text-bad font-bold">Error:</span>');
    expect(words(html)).toBe("Error: T: &lt;b&gt;x&lt;/b&gt; ⏎ y — a.go:3");
  });
});
