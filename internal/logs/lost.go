package logs

import (
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// An archive has a line of Nimbus' own for each that could not be read when it was
// made, so that numbers stay. Each says which these are: who reads a log that came out
// of an archive is told of damage as who reads the damaged log itself.
const lostForm = "nimbus: lines %d to %d are damaged: they could not be read when the log was exported"

// maxLost bounds how many lines in a row are written so: a header that is damaged may
// name any number.
const maxLost = 16 << 20

// errLost is that of lines that an archive does not have.
var errLost = nimbus.Errorf(nimbus.CodeInternal, "they could not be read when the log was exported") //nolint:gochecknoglobals // a constant

// lostLine stands for one of lines first to last, behind a line that could be read.
func lostLine(first, last int64, behind nimbus.Line) nimbus.Line {
	return nimbus.Line{Seq: behind.Seq + 1, At: behind.At, Step: behind.Step, Stream: nimbus.StreamSystem, Text: fmt.Sprintf(lostForm, first, last)}
}

// lostBy tells which lines are lost by what a line says.
func lostBy(l nimbus.Line) (first, last int64, ok bool) {
	if l.Stream != nimbus.StreamSystem {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(l.Text, lostForm, &first, &last)
	ok = err == nil && n == 2 && first <= l.Seq && l.Seq <= last && l.Text == fmt.Sprintf(lostForm, first, last)
	return first, last, ok
}

// withoutLost are the lines before the first that is lost; where that is the first of
// all, damaged says which are.
func withoutLost(lines []nimbus.Line) (before []nimbus.Line, damaged *DamagedError) {
	for i, l := range lines {
		if _, last, ok := lostBy(l); ok && i == 0 {
			return nil, &DamagedError{First: l.Seq, Last: last, Err: errLost}
		} else if ok {
			return lines[:i], nil
		}
	}
	return lines, nil
}
