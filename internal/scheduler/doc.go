// Package scheduler decides which job runs where, and keeps the books about it.
package scheduler
