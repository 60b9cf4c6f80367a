// Package logs breaks everything on the way of a line at once, agent, server,
// ClickHouse and the connections between them, while jobs write numbered lines, and
// then looks whether each line is everywhere once.
package logs
