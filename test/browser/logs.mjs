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
  await found.getByText("3 lines in 2 logs").waitFor({ timeout: 30_000 });
  check(new URL(page.url()).searchParams.get("text")?.includes("needle <here>"), `the address is ${page.url()}`);
  check((await page.locator("mark").count()) === 3, `${await page.locator("mark").count()} are marked`);
  await look(page, "logs-found");
  await page.reload();
  await found.getByText("3 lines in 2 logs").waitFor({ timeout: 30_000 });

  // Only of jobs with metadata; only errors.
  await page.getByRole("textbox", { name: "Metadata of the job" }).fill("model=llama");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await found.getByText("1 line in 1 log").waitFor({ timeout: 30_000 });
  await page.getByRole("article", { name: "With metadata" }).waitFor();
  await page.getByRole("link", { name: "Clear all" }).click();
  await page.getByRole("link", { name: "errors of the last 24 hours" }).click();
  await found.getByText("1 line in 1 log").waitFor({ timeout: 30_000 });
  await page.getByText("ERROR: it broke").waitFor();

  // What is not there, and what is no pattern, is told.
  await page.getByRole("combobox", { name: "Level, at least" }).selectOption("");
  await text.fill("nowhere at all");
  await text.press("Enter");
  await page.getByRole("heading", { name: "No such line" }).waitFor({ timeout: 30_000 });
  await page.getByRole("link", { name: "Search all time" }).click();
  await page.getByRole("combobox", { name: "Since" }).waitFor();
  check((await page.getByRole("combobox", { name: "Since" }).inputValue()) === "all", "not all time is searched");
  await page.getByRole("checkbox", { name: "Pattern" }).check();
  await text.fill("(");
  await text.press("Enter");
  await page.getByRole("alert").getByText(/missing closing/).waitFor({ timeout: 30_000 });
  await look(page, "logs-refused");

  // A line leads to its place in the job's log; by the keyboard alone.
  await page.goto(new URL("/logs?text=needle", LINK).href);
  await found.getByText(/lines in/).waitFor({ timeout: 30_000 });
  await page.locator("a[data-line]").first().focus();
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  await page.keyboard.press("Enter");
  await page.getByRole("log").waitFor();
  check(/#L\d+$/.test(page.url()), `the line leads to ${page.url()}`);
  await page.getByText("needle", { exact: false }).first().waitFor({ timeout: 30_000 });
}, /400|401/);
