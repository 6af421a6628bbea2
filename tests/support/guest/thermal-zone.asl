/* A thermal zone whose temperature is byte 0x60 of the CMOS in degrees Celsius, which the guest may write; 0 means 65. */
DefinitionBlock ("ssdt.aml", "SSDT", 2, "EDGED", "THERMAL", 1)
{
  Scope (\_SB) {
    OperationRegion (CMOS, SystemIO, 0x70, 0x02)
    Field (CMOS, ByteAcc, NoLock, Preserve) { CIDX, 8, CDAT, 8 }
  }
  Scope (\_TZ) {
    ThermalZone (EDGZ) {
      Method (_TMP, 0, Serialized) {
        Store (0x60, \_SB.CIDX)
        Store (\_SB.CDAT, Local0)
        If (LEqual (Local0, 0)) { Store (65, Local0) }
        Return (Add (Multiply (Local0, 10), 2732)) /* in tenths of a kelvin */
      }
      Method (_CRT) { Return (3882) } /* 115 degrees */
      Method (_HOT) { Return (3782) } /* 105 degrees */
      Name (_TZP, 10)
    }
  }
}
