# MSRs of the interface: values after reset, those that cannot be written, those that do not exist.
# mode: long
# hyperv: yes
# expect: 0x0 0x3b9aca00 0x3b9aca00 0x1 0x10000 0x0 0x0 0x0
# expect: 0x0e00000d 0x0 0x0e00000d 0x0 0x0e00000d 0x0 0x0e00000d 0x0 0x0e00000d 0x0
# expect: 0x0e00000d 0x0 0x0e00000d 0x0 0x5 0x0e00000d 0x0 0x205001 0x99
.include "hyperv.inc"
.macro refused number, low, high=0
    catch 1f
    write_msr \number, \low, \high
1:
.endm
main:
    report_msr 0x40000002
    report_msr 0x40000022
    report_msr 0x40000023
    report_msr 0x40000081
    report_msr 0x4000009f
    report_msr 0x40000083
    report_msr 0x40000084
    report_msr 0x40000003
    refused 0x40000002, 0
    refused 0x40000020, 0
    refused 0x40000022, 0
    refused 0x40000081, 1
    refused 0x400000b0, 0
    catch 2f
    movl $0x40000010, %ecx
    rdmsr
    # An exception's vector, unmasked; masked it may stand there.
2:  refused 0x40000092, 5
    write_msr 0x40000092, 0x10005
    movl $0x40000092, %ecx
    rdmsr
    andl $0xffff, %eax
    outl %eax, $0x80
    # A page that is no RAM.
    refused 0x40000083, 0xd0000001
    write_msr 0x40000073, 0x205001
    report_msr 0x40000073
    report $0x99
    finish
