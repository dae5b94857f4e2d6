# A crash report with parameters and a text, one without text, and no report; then the reset MSR ends the VM.
# mode: long
# hyperv: yes
# ends: reset
# expect: 0xc0000000 0x1234 0xc4a50000 0x1234 0x5 0xc4a50000 0x1234 0x0
.include "hyperv.inc"
main:
    movl $0x40000105, %ecx
    rdmsr
    report %edx
    write_msr 0x40000100, 0x1234
    report_msr 0x40000100
    write_msr 0x40000103, text
    write_msr 0x40000104, 5
    write_msr 0x40000105, 0, 0xc0000000
    write_msr 0x40000105, 0, 0x80000000
    write_msr 0x40000105, 0, 0
    write_msr 0x40000003, 1
1:  pause
    jmp 1b
text: .ascii "panic"
