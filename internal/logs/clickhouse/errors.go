package clickhouse

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/nimbus-ci/nimbus"
)

// Codes of the engine's errors.
const (
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeTimeout         = 159
	codeTooSlow         = 160
	codeMemory          = 241
	codeTooManyBytes    = 307
	codeRegexp          = 427
	codeTooManyBytesOut = 396
)

// refusals are the codes by which the engine says that rows are bad: sending them
// again would never help. All others are trouble that passes, or that an operator
// ends (a full disk, too many parts, a table that is missing, a password).
var refusals = []int32{
	6,   // CANNOT_PARSE_TEXT
	27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
	33,  // CANNOT_READ_ALL_DATA
	38,  // CANNOT_PARSE_DATE
	41,  // CANNOT_PARSE_DATETIME
	53,  // TYPE_MISMATCH
	69,  // ARGUMENT_OUT_OF_BOUND
	70,  // CANNOT_CONVERT_TYPE
	72,  // CANNOT_PARSE_NUMBER
	117, // INCORRECT_DATA
	131, // TOO_LARGE_STRING_SIZE
	321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
	349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
	469, // VIOLATED_CONSTRAINT
	691, // UNKNOWN_ELEMENT_OF_ENUM
}

// code is the engine's, 0 for an error of none.
func code(err error) int32 {
	var e *clickhouse.Exception
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// refused tells whether the engine will never take the rows.
func refused(err error) bool { return slices.Contains(refusals, code(err)) }

// readable is an error as a reader may see it. Codes: unavailable, invalid,
// too_large.
func readable(doing string, err error) error {
	if err == nil {
		return nil
	}
	switch code(err) {
	case codeTimeout, codeTooSlow, codeMemory, codeTooManyBytes, codeTooManyBytesOut:
		return nimbus.Errorf(nimbus.CodeTooLarge, "%s: ClickHouse gave up within its bounds", doing).WithHint("narrow it down: fewer jobs, or a shorter time")
	case codeRegexp:
		return nimbus.Errorf(nimbus.CodeInvalid, "%s: ClickHouse can't use this pattern", doing)
	case codeUnknownTable, codeUnknownDatabase:
		return nimbus.Errorf(nimbus.CodeUnavailable, "%s: ClickHouse has no tables for logs", doing).WithHint("an administrator runs: nimbus logs migrate")
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "%s: ClickHouse does not answer: %w", doing, err)
}

// wrap says what was being done.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
