package store

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// bulk is one statement for many rows. PostgreSQL, where the round trip and
// the statement cost more than the row, takes all of them as one array a
// column. SQLite has no round trips and takes them one by one.
type bulk struct {
	columns []column
	one     string
	many    string
}

// column is a column of a bulk, in the order of the values of a row.
type column struct{ name, kind string }

// columns reads "id text, fence bigint, …".
func columns(list string) []column {
	var out []column
	for field := range strings.SplitSeq(list, ",") {
		name, kind, _ := strings.Cut(strings.TrimSpace(field), " ")
		out = append(out, column{name, kind})
	}
	return out
}

// bulkInsert adds rows. conflict is an ON CONFLICT clause, or "".
func bulkInsert(table, list, conflict string) bulk {
	cols := columns(list)
	names := joined(cols, func(_ int, c column) string { return c.name })
	into := "INSERT INTO " + table + " (" + names + ") "
	return bulk{
		columns: cols,
		one:     into + "VALUES (" + joined(cols, parameter) + ") " + conflict,
		many:    into + "SELECT " + names + " FROM " + unnest(cols) + " AS v (" + names + ") " + conflict,
	}
}

// bulkUpdate sets columns of the rows that the keys name.
func bulkUpdate(table, keys, list string) bulk {
	k, set := columns(keys), columns(list)
	all := slices.Concat(k, set)
	names := joined(all, func(_ int, c column) string { return c.name })
	return bulk{
		columns: all,
		one: "UPDATE " + table + " SET " +
			joined(set, func(i int, c column) string { return fmt.Sprintf("%s = $%d", c.name, len(k)+i+1) }) +
			" WHERE " + strings.ReplaceAll(joined(k, func(i int, c column) string { return fmt.Sprintf("%s = $%d", c.name, i+1) }), ", ", " AND "),
		many: "UPDATE " + table + " AS t SET " +
			joined(set, func(_ int, c column) string { return c.name + " = v." + c.name }) +
			" FROM " + unnest(all) + " AS v (" + names + ") WHERE " +
			strings.ReplaceAll(joined(k, func(_ int, c column) string { return "t." + c.name + " = v." + c.name }), ", ", " AND "),
	}
}

// bulkDelete removes the rows that a key names.
func bulkDelete(table, key string) bulk {
	k := columns(key)
	return bulk{
		columns: k,
		one:     "DELETE FROM " + table + " WHERE " + k[0].name + " = $1",
		many:    "DELETE FROM " + table + " WHERE " + k[0].name + " = ANY($1::" + k[0].kind + "[])",
	}
}

func joined(cols []column, word func(int, column) string) string {
	words := make([]string, len(cols))
	for i, c := range cols {
		words[i] = word(i, c)
	}
	return strings.Join(words, ", ")
}

func parameter(i int, _ column) string { return fmt.Sprintf("$%d", i+1) }

func unnest(cols []column) string {
	return "unnest(" + joined(cols, func(i int, c column) string { return fmt.Sprintf("$%d::%s[]", i+1, c.kind) }) + ")"
}

// statements are what writes rows: one for all, or one for each.
func (b bulk) statements(d dialect, rows [][]any) []statement {
	if d.arrays() {
		return []statement{{b.many, b.arrays(rows)}}
	}
	out := make([]statement, len(rows))
	for i, row := range rows {
		out[i] = statement{b.one, row}
	}
	return out
}

// arrays turns rows into one array a column.
func (b bulk) arrays(rows [][]any) []any {
	args := make([]any, len(b.columns))
	for c, col := range b.columns {
		switch col.kind {
		case "text":
			args[c] = columnOf[string](rows, c)
		case "bigint":
			args[c] = columnOf[int64](rows, c)
		case "boolean":
			args[c] = columnOf[bool](rows, c)
		case "bytea":
			args[c] = columnOf[[]byte](rows, c)
		}
	}
	return args
}

// columnOf collects a column; nil values stay so.
func columnOf[T any](rows [][]any, c int) []*T {
	out, values := make([]*T, len(rows)), make([]T, len(rows))
	for i, row := range rows {
		if v, ok := row[c].(T); ok {
			values[i] = v
			out[i] = &values[i]
		}
	}
	return out
}

func affected(r sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// scanAll reads all rows of a result.
func scanAll[T any](rows *sql.Rows, err error, scan func(scanner, *T) error) (out []T, _ error) {
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return out, rows.Close()
}

// texts reads a result of one text column.
func texts(rows *sql.Rows, err error) ([]string, error) {
	return scanAll(rows, err, func(r scanner, s *string) error { return r.Scan(s) })
}
