-- Lines of all logs. Ids are the 128 bits of a ULID. A UUID is compared by its
-- second half first, so the time in an id can't order anything: started_at is that
-- time, and comes before it. All lines of a log have it, so that a log lies in one
-- partition, where what came twice merges.
CREATE TABLE IF NOT EXISTS {{.DB}}.log_lines{{.OnCluster}} (
    org_id     UUID CODEC(ZSTD(1)),
    started_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    log_id     UUID CODEC(ZSTD(1)),
    kind       Enum8('attempt' = 1, 'shell' = 2),
    seq        UInt64 CODEC(Delta(8), ZSTD(1)),
    at         DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    step       UInt32 CODEC(ZSTD(1)),
    grp        UInt32 CODEC(ZSTD(1)),
    stream     Enum8('stdout' = 1, 'stderr' = 2, 'system' = 3, 'step' = 4),
    level      Enum8('none' = 0, 'debug' = 1, 'info' = 2, 'warn' = 3, 'error' = 4),
    text       String CODEC(ZSTD(3)),
    class      UInt16 CODEC(ZSTD(1)),
    expire_at  Date CODEC(ZSTD(1))
)
ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY (toYYYYMMDD(started_at), class)
ORDER BY (org_id, started_at, log_id, seq)
TTL expire_at
SETTINGS ttl_only_drop_parts = 1, {{.Windows}};

-- What each log holds, for display and to plan searches by: a line that came twice
-- with another block is counted twice here, and nowhere else.
CREATE TABLE IF NOT EXISTS {{.DB}}.log_stats{{.OnCluster}} (
    org_id     UUID,
    started_at DateTime64(3, 'UTC'),
    log_id     UUID,
    kind       Enum8('attempt' = 1, 'shell' = 2),
    level      Enum8('none' = 0, 'debug' = 1, 'info' = 2, 'warn' = 3, 'error' = 4),
    class      UInt16,
    expire_at  SimpleAggregateFunction(max, Date),
    lines      SimpleAggregateFunction(sum, UInt64),
    bytes      SimpleAggregateFunction(sum, UInt64),
    first_seq  SimpleAggregateFunction(min, UInt64),
    last_seq   SimpleAggregateFunction(max, UInt64),
    first_at   SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last_at    SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = {{engine "AggregatingMergeTree"}}
PARTITION BY (toYYYYMMDD(started_at), class)
ORDER BY (org_id, started_at, log_id, kind, level, class)
TTL expire_at
SETTINGS ttl_only_drop_parts = 1, {{.Windows}};

CREATE MATERIALIZED VIEW IF NOT EXISTS {{.DB}}.log_stats_mv{{.OnCluster}} TO {{.DB}}.log_stats AS
SELECT org_id, started_at, log_id, kind, level, class, max(expire_at) AS expire_at,
       count() AS lines, sum(length(text) + 1) AS bytes, min(seq) AS first_seq, max(seq) AS last_seq, min(at) AS first_at, max(at) AS last_at
FROM {{.DB}}.log_lines
GROUP BY org_id, started_at, log_id, kind, level, class;

-- Lines that the engine refused for what is in them. The store that Nimbus has for
-- itself keeps their logs.
CREATE TABLE IF NOT EXISTS {{.DB}}.log_parked{{.OnCluster}} (
    org_id    UUID,
    log_id    UUID,
    kind      Enum8('attempt' = 1, 'shell' = 2),
    first_seq UInt64,
    last_seq  UInt64,
    reason    String,
    parked_at DateTime('UTC') DEFAULT now()
)
ENGINE = {{engine "ReplacingMergeTree"}}
ORDER BY (org_id, log_id, first_seq, last_seq)
TTL parked_at + INTERVAL 400 DAY
SETTINGS {{.Windows}};
