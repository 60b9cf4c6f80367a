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

// Ranged tells whether values of this kind need the tag. Numbers with a fraction may
// have it.
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
	if r.holds(target) {
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

// Valid tells what is wrong with the tag of a value, if it has one.
func Valid(v *kong.Value) error {
	text := v.Tag.Get(Tag)
	if text == "" {
		return nil
	}
	target := v.Target
	if target.Kind() == reflect.Pointer {
		target = reflect.New(target.Type().Elem()).Elem()
	}
	_, err := parse(text, target)
	return err
}

// span is a range of whole numbers, or of others.
type span struct {
	least, most           int64
	leastFloat, mostFloat float64
}

func (s span) holds(v reflect.Value) bool {
	if v.CanFloat() { // NaN is in none
		return v.Float() >= s.leastFloat && v.Float() <= s.mostFloat
	}
	return v.Int() >= s.least && v.Int() <= s.most
}

// parse reads a range for values of the kind of v.
func parse(text string, v reflect.Value) (span, error) {
	low, high, ok := strings.Cut(text, "..")
	if !ok || low == "" {
		return span{}, errors.New("it looks like 1..9, or 1.. without an end")
	}
	out := span{most: math.MaxInt64, mostFloat: math.MaxFloat64}
	read := func(s string, whole *int64, _ *float64) (err error) {
		*whole, err = strconv.ParseInt(s, 10, 64)
		return err
	}
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		read = func(s string, whole *int64, _ *float64) error {
			d, err := time.ParseDuration(s)
			*whole = int64(d)
			return err
		}
	case v.CanFloat():
		read = func(s string, _ *int64, float *float64) (err error) {
			*float, err = strconv.ParseFloat(s, 64)
			return err
		}
	case !v.CanInt():
		return span{}, fmt.Errorf("a %s has no range", v.Type())
	}
	err := read(low, &out.least, &out.leastFloat)
	if high != "" {
		err = cmp.Or(err, read(high, &out.most, &out.mostFloat))
	}
	return out, err
}
