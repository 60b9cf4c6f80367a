-- What PostgreSQL needs beside the migrations, which run on both engines. It is
-- run at each start and changes nothing the second time.

CREATE TABLE IF NOT EXISTS nimbus_clock (
    one       BOOLEAN PRIMARY KEY CHECK (one),
    offset_us BIGINT  NOT NULL
);

-- nimbus_now is the only clock that decides about leases: microseconds since
-- 1970. The table lets tests move it; SQLite has the same function in Go.
-- It is in plpgsql because that keeps its plan, where SQL plans at each call.
CREATE OR REPLACE FUNCTION nimbus_now() RETURNS BIGINT LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
         + COALESCE((SELECT offset_us FROM nimbus_clock), 0);
END $$;
