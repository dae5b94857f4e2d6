# Event flags: set once, one interrupt while the flag stands; no interrupt from a masked source; lost while the page is off.
# mode: long
# hyperv: yes
# expect: 0x5 0xf4 0x0 0x0 0x20 0xf4 0x0 0x80000000 0x0 0x1 0x0 0x99
.include "hyperv.inc"
.macro signal sint, flag
    hypercall 0x1005d, (0x100 | \sint | \flag << 32)
.endm
main:
    enable_apic
    enable_hypercalls
    handle 0xf4, interrupted
    # The page is off.
    signal 2, 5
    enable_synic 0xf4
    sti
    # Flag 5 of SINT 2: set, interrupt. Again, while it stands: nothing.
    signal 2, 5
    call settle
    signal 2, 5
    call settle
    report event_page + 0x200
    # The last flag, by a slow hypercall.
    movabsq $(0x102 | 2047 << 32), %rax
    movq %rax, input_page
    hypercall 0x5d, input_page
    call settle
    report event_page + 0x2fc
    # A source that is masked.
    signal 3, 0
    call settle
    report event_page + 0x300
    report message_page + 0x200
    report $0x99
    finish
# Time for an interrupt.
settle:
    movl $1000, %ecx
1:  pause
    loop 1b
    ret
interrupted:
    addq $16, %rsp
    pushq %rax
    report $0xf4
    end_interrupt
    popq %rax
    iretq
