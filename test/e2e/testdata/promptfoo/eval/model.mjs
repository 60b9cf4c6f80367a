// A model that needs no network. It says in which span of promptfoo's it is asked, so that
// who reads the log knows the ids without having them from the receiver.
import { writeSync } from "node:fs";

export default class Model {
  id() {
    return "model";
  }

  async callApi(prompt, context) {
    writeSync(1, `asked in ${context.traceparent}\n`);
    return { output: `${prompt} I don't know, but France's is Paris.` };
  }
}
