// Searches the logs of an org as a person would, by the keyboard too. See drive.mjs.
import { check, drive, look } from "./drive.mjs";

const { LINK } = process.env;

// 400: a pattern that is none.
await drive(async (page) => {
  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
  await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Logs" }).click();
  await page.getByRole("heading", { name: "Search the logs of all jobs" }).waitFor();
  await look(page, "logs-empty");

  // Small letters find capitals; what for is in the address.
  const text = page.getByRole("searchbox", { name: "Text" });
  await text.fill("needle <here>");
  await text.press("Enter");
  const found = page.getByTestId("found");
  await found.getByText("3 lines in 2 logs").waitFor();
  check(new URL(page.url()).searchParams.get("text")?.includes("needle <here>"), `the address is ${page.url()}`);
  check((await page.locator("mark").count()) === 3, `${await page.locator("mark").count()} are marked`);
  await look(page, "logs-found");
  await page.reload();
  await found.getByText("3 lines in 2 logs").waitFor();

  // Only of jobs with metadata; only errors.
  await page.getByRole("textbox", { name: "Metadata of the job" }).fill("model=llama");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await found.getByText("1 line in 1 log").waitFor();
  await page.getByRole("article", { name: "With metadata" }).waitFor();
  await page.getByRole("link", { name: "Clear all" }).click();
  await page.getByRole("link", { name: "errors of the last 24 hours" }).click();
  await found.getByText("2 lines in 2 logs").waitFor();
  await page.getByText("ERROR: it broke").waitFor();
  await page.getByText("Error: Build: broken ⏎ badly — src/a.go:3").waitFor(); // what is labelled as an error counts as one

  // What is not there, and what is no pattern, is told.
  await page.getByRole("combobox", { name: "Level, at least" }).selectOption("");
  await text.fill("nowhere at all");
  await text.press("Enter");
  await page.getByRole("heading", { name: "No such line" }).waitFor();
  await page.getByRole("link", { name: "Search all time" }).click();
  await page.getByRole("combobox", { name: "Since" }).and(page.locator('select:has(option[value="all"]:checked)')).waitFor();
  await page.getByRole("checkbox", { name: "Pattern" }).check();
  await text.fill("(");
  await text.press("Enter");
  await page.getByRole("alert").getByText(/missing closing/).waitFor();
  await look(page, "logs-refused");

  // A line leads to its place in the job's log; by the keyboard alone.
  await page.goto(new URL("/logs?text=needle", LINK).href);
  await found.getByText(/lines in/).waitFor();
  await page.locator("a[data-line]").first().focus();
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  await page.keyboard.press("Enter");
  await page.getByRole("log").waitFor();
  check(/#L\d+$/.test(page.url()), `the line leads to ${page.url()}`);
  await page.getByText("needle", { exact: false }).first().waitFor();

  // A job that writes as for a terminal, and GitHub's workflow commands.
  await page.goto(new URL("/", LINK).href);
  await page.getByRole("link", { name: /As a terminal/ }).click();
  const log = page.getByRole("log");
  const row = (n) => log.locator("div.flex", { has: page.getByRole("link", { name: `Line ${n}`, exact: true }) });
  const says = async (n, what) => {
    const text = await row(n).textContent();
    check(what.test(text), `line ${n} says ${JSON.stringify(text)}`);
  };
  await log.getByText("the end of ***").waitFor();
  await says(1, /^1colours: {2}30 /);
  await says(5, /^5the build and https:\/\/ci\.example\/run\/1, nowhere/);
  const links = await row(5).locator("a[target]").evaluateAll((all) => all.map((a) => [a.href, a.title, a.rel, a.target].join(" ")));
  const safe = "noopener noreferrer _blank";
  check(
    JSON.stringify(links) === JSON.stringify([`https://docs.example/build https://docs.example/build ${safe}`, `https://ci.example/run/1 https://ci.example/run/1 ${safe}`]),
    `the links are ${JSON.stringify(links)}`,
  );
  await says(6, /^6Fetching 100%raw$/);
  await says(8, /^8Error: Build: broken ⏎ badly — src\/a\.go:3raw$/);
  await says(9, /^9Warning: 50% oldraw$/);
  await says(12, /^12\/usr\/bin\/make all$/);
  const group = page.getByRole("button", { name: /Install it/ });
  await group.click();
  await log.getByText("end of group").waitFor();
  check(!/s3cret/.test(await log.textContent()), "a secret is shown");
  await look(page, "logs-terminal");

  // The line as it was written, by the keyboard.
  const raw = page.getByRole("button", { name: "Raw line 6", exact: true });
  await raw.focus();
  await page.keyboard.press("Enter");
  await says(6, /^6Fetching {2}10%\^MFetching {2}50%\^MFetching \^\[\[32m100%\^\[\[0mrawcopy$/);
  await look(page, "logs-raw");
  await raw.click();
  await says(6, /^6Fetching 100%raw$/);

  // What was overwritten is found, and a hit is marked whole whatever it is written in.
  const box = page.getByRole("searchbox", { name: "Search the log" });
  await box.fill("fetching  50");
  await box.press("Enter");
  await row(6).locator("mark", { hasText: "Fetching 50" }).waitFor();
  await page.getByRole("checkbox", { name: "Pattern" }).check();
  await box.fill("tra.*ed|https://ci.*/1|dim.*red|33.*45");
  await box.press("Enter");
  await page.getByTestId("log-search").getByText(/of 4$/).waitFor();
  const hits = await row(7).locator("mark").allTextContents();
  check(JSON.stringify(hits) === JSON.stringify(["traversed"]), `marked is ${JSON.stringify(hits)}`);
  check((await row(5).locator("a mark").count()) === 1, "nothing is marked in a link");
  await look(page, "logs-marked");
}, /400|401/);
