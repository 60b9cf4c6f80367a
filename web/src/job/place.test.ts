import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";

import { QueuePlaceSchema } from "../gen/nimbus/v1/job_pb";
import { placeWords } from "./place";

describe("place in the queue", () => {
  const now = 1_000_000;
  const place = (ahead: number, seconds: number) => create(QueuePlaceSchema, { ahead, startAt: timestampFromMs(now + seconds * 1000) });

  it("tells who is before, and a rough time", () => {
    expect(placeWords(place(0, 1), now)).toBe("It is next, and starts about now.");
    expect(placeWords(place(1, 42), now)).toBe("There is 1 job before it. It starts in about 40 s.");
    expect(placeWords(place(12, 610), now)).toBe("There are 12 jobs before it. It starts in about 10 min.");
    expect(placeWords(place(12, 4 * 3600), now)).toBe("There are 12 jobs before it. It starts in about 4 h.");
  });

  it("says why no time can be told", () => {
    const unknown = create(QueuePlaceSchema, { ahead: 500, atLeast: true, unknown: "too many wait to be counted" });
    expect(placeWords(unknown, now)).toBe("There are at least 500 jobs before it. When it starts can't be told: too many wait to be counted.");
  });
});
