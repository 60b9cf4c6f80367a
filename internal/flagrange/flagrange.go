// Package flagrange holds numbers and times of a command line to the range that
// the tag of their field names, before anything is done with them:
//
//	CPU     int           `within:"1..512"`
//	Timeout time.Duration `within:"1s.."`
//
// A field without a default is looked at where it was given.
package flagrange

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
)

// Tag is the name of the tag.
const Tag = "within"

// Check looks at the flags and arguments of a command line that was parsed.
// Codes: invalid.
func Check(parsed *kong.Context) error {
	for _, f := range parsed.Flags() {
		if err := check("--"+f.Name, f.Value); err != nil {
			return err
		}
	}
	for n := parsed.Selected(); n != nil; n = n.Parent {
		for _, v := range n.Positional {
			if err := check("<"+v.Name+">", v); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ranged tells whether values of this kind need the tag.
func Ranged(v *kong.Value) bool {
	switch v.Target.Interface().(type) {
	case int, int64, time.Duration, *int, *int64, *time.Duration:
		return true
	}
	return false
}

func check(name string, v *kong.Value) error {
	text := v.Tag.Get(Tag)
	if text == "" || !v.Set {
		return nil
	}
	target := reflect.Indirect(v.Target) // one that is optional is a pointer
	r, err := parse(text, target)
	if err != nil {
		return fmt.Errorf("range %q of %s: %w", text, name, err)
	}
	if got := target.Int(); got >= r.least && got <= r.most {
		return nil
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "%s is %v; allowed is %s", name, target.Interface(), Words(text))
}

// Words are what a tag allows, for people: "1 to 9".
func Words(tag string) string {
	low, high, _ := strings.Cut(tag, "..")
	if high == "" {
		return low + " or more"
	}
	return low + " to " + high
}

type span struct {
	least, most int64
}

// parse reads a range for values of the kind of v.
func parse(text string, v reflect.Value) (span, error) {
	low, high, ok := strings.Cut(text, "..")
	if !ok || low == "" {
		return span{}, errors.New("it looks like 1..9, or 1.. without an end")
	}
	out := span{most: math.MaxInt64}
	number := func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
	if v.Type() == reflect.TypeFor[time.Duration]() {
		number = func(s string) (int64, error) {
			d, err := time.ParseDuration(s)
			return int64(d), err
		}
	}
	var err, highErr error
	out.least, err = number(low)
	if high != "" {
		out.most, highErr = number(high)
	}
	return out, cmp.Or(err, highErr)
}
