package migrate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadUsage(t *testing.T) {
	t.Parallel()
	for name, report := range map[string]string{
		"new": "date,product,sku,quantity,unit_type,gross_amount\n" +
			"2026-09-01,actions,actions_linux,14400,minutes,86.4\n" +
			"2026-09-10,actions,actions_linux_8_core,1440,minutes,31.68\n" +
			"2026-09-10,actions,actions_windows,30,minutes,0.48\n" +
			"2026-09-10,actions,actions_storage,999,gigabyte-hours,1\n" +
			"2026-09-10,copilot,copilot_business,3,user-months,57\n",
		"old, of a spreadsheet": "\ufeffDate,Product,SKU,Quantity,Unit Type,Gross Amount\n" +
			"2026-09-01T00:00:00Z,Actions,Compute - UBUNTU,14400,Minutes,$86.4\n" +
			"2026-09-10T00:00:00Z,Actions,Compute - UBUNTU 8 CORE,1440,Minutes,$31.68\n" +
			"2026-09-10T00:00:00Z,Actions,Compute - WINDOWS,30,Minutes,$0.48\n",
	} {
		got, err := ReadUsage(strings.NewReader(report), DefaultSize)
		want := Usage{Days: 10, LinuxMinutes: 15840, OtherMinutes: 30, LinuxCost: 118.08, AverageCPUs: 2.8, WorkingCPUs: 11.76}
		if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9)); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestBadReports(t *testing.T) {
	t.Parallel()
	const head = "date,product,sku,quantity,unit_type\n"
	for report, want := range map[string]string{
		"":        "no first line",
		"a,b,c\n": "no column",
		head:      "no minutes",
		head + "x,actions,actions_linux,1,minutes\n":            "line 2",
		head + "2026-09-01,actions,actions_linux,-1,minutes\n":  "no quantity",
		head + "2026-09-01,actions,actions_linux,\"1,minutes\n": "line 2",
		head + "2026-09-01,packages,transfer,1,gigabytes\n":     "no minutes",
		head + ",actions,actions_linux,1,minutes\n":             "no date",
	} {
		if _, err := ReadUsage(strings.NewReader(report), DefaultSize); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", report, err)
		}
	}
}
