// Has GitHub's jobs run again from their pages, as a person would. See drive.mjs.
import { check, drive, look, say } from "./drive.mjs";

const { LINK } = process.env;
const button = (page) => page.getByRole("button", { name: "Run again" });
const standing = (page, word) => page.getByTestId("standing").getByText(word).waitFor();

/** Opens a job from the list, which is fetched by the stream. */
async function open(page, name) {
  await page.goto(new URL("/", LINK).href);
  await page.getByRole("link", { name: new RegExp(name) }).first().click();
  await page.getByRole("heading", { name }).waitFor();
}

// 409 is what a refusal is answered with.
await drive(async (page) => {
  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();

  // Labels that mean nothing: that it can't is told, with the reason.
  await say("push strange");
  await open(page, "strange");
  await standing(page, "Can't start");
  await button(page).click();
  await page.getByRole("alert").getByText("its labels are what they were").waitFor();
  await page.getByRole("button", { name: "Cancel job" }).waitFor();
  await look(page, "rerun-refused");

  // Attempts that were used up: it waits for a host again, and runs.
  await say("push unlucky");
  await open(page, "unlucky");
  await standing(page, "Can't start");
  await look(page, "rerun-held");
  await say("mend");
  await button(page).click();
  await standing(page, "Passed");
  await page.getByText("fine", { exact: true }).waitFor();

  // It is over: GitHub runs it again, as another job.
  await say("over");
  await button(page).click();
  await page.getByRole("status").getByText("GitHub runs it again").waitFor();
  await look(page, "rerun-asked");
  check((await button(page).count()) === 0, "what was asked for once is offered again");
  await page.goto(new URL("/", LINK).href);
  await page.getByRole("link", { name: /unlucky/ }).nth(1).waitFor();
}, /409|401/);
